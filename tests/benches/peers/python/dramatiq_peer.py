"""Dramatiq: confirmed publishes, acknowledged after the work. Its results need Redis or Memcached."""

import dramatiq
from contender import QUEUE, TEXT, URL, ran, serve
from dramatiq.brokers.rabbitmq import RabbitmqBroker

dramatiq.set_broker(RabbitmqBroker(url=URL, confirm_delivery=True))


@dramatiq.actor(actor_name="peers.noop", queue_name=QUEUE)
def noop(number, text):
    ran()


def one(count):
    for number in range(count):
        noop.send(number, TEXT)


if __name__ == "__main__":
    serve(one=one)
