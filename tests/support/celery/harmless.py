"""The Python worker that nothing of ours may hurt."""

import json
import os
import sys
import time

from celery import Celery
from celery.app.task import Context

QUEUE = os.environ["INTEROP_QUEUE"]

app = Celery("harmless", broker=os.environ["INTEROP_BROKER"], backend="rpc://")
app.conf.update(task_default_queue=QUEUE, worker_hijack_root_logger=False, broker_connection_retry_on_startup=True)


@app.task(name="harmless.ping")
def ping():
    return "pong"


@app.task(name="harmless.echo")
def echo(*args, **kwargs):
    return [args, kwargs]


@app.task(name="harmless.first")
def first(value=None, *_args, **_kwargs):
    return value


@app.task(name="harmless.retried", bind=True)
def retried(self, *_args):
    if self.request.retries < 1:
        raise self.retry(countdown=0)
    return self.request.retries


@app.task(name="harmless.fail")
def fail(*args):
    raise ValueError(*args)


@app.task(name="harmless.sleep")
def sleep(seconds):
    time.sleep(seconds)


def names():
    """What a request of Celery's calls its own: a header of such a name would take its place."""
    print(json.dumps(sorted(Context.__dict__)))


if __name__ == "__main__":
    {"names": names}[sys.argv[1]]()
