"""The Python side of the tests of kept results: Celery with its Redis backend."""

import json
import os
import sys

from celery import Celery
from celery.result import AsyncResult

QUEUE = os.environ["INTEROP_QUEUE"]

app = Celery("results", broker=os.environ["INTEROP_BROKER"], backend=os.environ["INTEROP_REDIS"])
app.conf.update(task_default_queue=QUEUE, worker_hijack_root_logger=False)


@app.task(name="python.add")
def add(x, y):
    return x + y


@app.task(name="python.fail")
def fail(text):
    raise ValueError(text)


def declare():
    """Makes the queue as a Python app would, before anybody else does."""
    with app.connection_for_write() as connection:
        app.amqp.queues[QUEUE].bind(connection.default_channel).declare()
    print("{}")


def call():
    """Calls Rust's tasks, reads each result twice, and prints what came of it, a JSON object."""
    sum_ = app.send_task("rust.add", (2, 3))
    failed = app.send_task("rust.fail", ("no luck",))
    outcome = {"id": sum_.id, "sum": [sum_.get(timeout=20), AsyncResult(sum_.id, app=app).get(timeout=20)]}
    try:
        failed.get(timeout=20)
    except Exception as error:  # whatever class it arrives as is what the test wants to know
        outcome["failed"] = [type(error).__name__, str(error), failed.state, failed.traceback]
    outcome["ignored"] = app.send_task("rust.add", (1, 1), ignore_result=True).id
    print(json.dumps(outcome))


def read():
    """Reads the result of a call that somebody else has sent."""
    result = AsyncResult(sys.argv[2], app=app)
    print(json.dumps([result.get(timeout=20), result.state]))


if __name__ == "__main__":
    {"declare": declare, "call": call, "read": read}[sys.argv[1]]()
