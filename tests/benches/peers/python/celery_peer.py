"""Celery: confirmed publishes, acknowledged after the work, results through `rpc://`."""

from celery import Celery
from contender import QUEUE, TEXT, URL, ran, serve, windowed
from kombu import Queue

app = Celery("celery_peer", broker=URL, backend="rpc://")
app.conf.update(
    broker_transport_options={"confirm_publish": True},
    result_persistent=True,
    task_acks_late=True,
    task_queues=[Queue(QUEUE, routing_key=QUEUE)],
    task_default_queue=QUEUE,
    task_default_routing_key=QUEUE,
    task_reject_on_worker_lost=True,
    worker_hijack_root_logger=False,
)


@app.task(name="peers.noop")
def noop(number, text):
    ran()
    return number


def one(count):
    for number in range(count):
        noop.apply_async((number, TEXT), ignore_result=True)


def rpc(count, in_flight):
    return windowed(count, in_flight, lambda number: noop.delay(number, TEXT), lambda handle: handle.get(timeout=60))


if __name__ == "__main__":
    serve(one=one, rpc=rpc)
