"""The Python side of docs/celery.md."""

import json
import os
import sys

from celery import Celery, chain

# In production: one vhost, and names without the test's suffix.
IMAGES = os.environ["INTEROP_QUEUE"] + "-images"

app = Celery("shop", broker=os.environ["INTEROP_BROKER"], backend="rpc://")
app.conf.update(
    task_default_queue=os.environ["INTEROP_QUEUE"],
    task_routes={"shop.thumbnail": {"queue": IMAGES}},  # the task that moves gets a queue of its own
)


@app.task(name="shop.thumbnail")
def thumbnail(path, width):
    return f"{path}@{width}"


@app.task(name="shop.notify")
def notify(text, channel="mail"):
    if not text:
        raise ValueError("nothing to say")
    return f"{channel}: {text}"


def declare():
    """Makes the queue as Celery's workers do."""
    with app.connection_for_write() as connection:
        app.amqp.queues[IMAGES].bind(connection.default_channel).declare()


def order():
    """What callers do."""
    small = thumbnail.delay("cat.png", width=100)
    told = chain(thumbnail.s("dog.png", 50), notify.s("chat").set(queue=app.conf.task_default_queue)).delay()
    print(json.dumps([small.get(timeout=20), told.get(timeout=20)]))


if __name__ == "__main__":
    {"declare": declare, "order": order}[sys.argv[1]]()
