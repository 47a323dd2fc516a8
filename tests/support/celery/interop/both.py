"""The Celery app of the interop suite: the tasks that a Python worker runs, and stubs of those that Rust runs."""

import datetime
import os
import signal
import time
import uuid
from decimal import Decimal

from celery import Celery
from celery.exceptions import Ignore, Reject

PYTHON_QUEUE = os.environ["INTEROP_QUEUE"]
RUST_QUEUE = PYTHON_QUEUE + "-rust"

app = Celery("both", broker=os.environ["INTEROP_BROKER"], backend="rpc://")
app.conf.update(
    task_default_queue=PYTHON_QUEUE,
    # What a team writes that moves some of its tasks to Rust.
    task_routes={"rust.*": {"queue": RUST_QUEUE}},
    worker_hijack_root_logger=False,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
)

TYPED = {
    "datetime": datetime.datetime(2024, 1, 2, 3, 4, 5, 678901, tzinfo=datetime.timezone.utc),
    "date": datetime.date(2024, 1, 2),
    "time": datetime.time(3, 4, 5),
    "decimal": Decimal("1.50"),
    "uuid": uuid.UUID(int=1),
    "text": b"hi",
    "bytes": b"\xff\x00",
}


class Broken(Exception):
    """An exception of this app's own."""


@app.task(name="python.add")
def add(x, y):
    return x + y


@app.task(name="python.sum")
def total(values):
    return sum(values)


@app.task(name="python.echo")
def echo(value):
    return value


@app.task(name="python.number")
def number(text):
    return float(text)


@app.task(name="python.kind")
def kind(value):
    """The type that an argument has here, and what it looks like."""
    return [type(value).__name__, repr(value)]


@app.task(name="python.greet")
def greet(name, *, greeting="hello", mark="!"):
    return f"{greeting}, {name}{mark}"


@app.task(name="python.typed")
def typed(name):
    return TYPED[name]


@app.task(name="python.fail")
def fail(name, *arguments):
    raise {"ValueError": ValueError, "KeyError": KeyError, "Broken": Broken}[name](*arguments)


@app.task(name="python.fail_after")
def fail_after(_input, text):
    raise ValueError(text)


@app.task(name="python.unsteady", bind=True, max_retries=3)
def unsteady(self, failures):
    if self.request.retries < failures:
        raise self.retry(exc=Broken("not yet"), countdown=0.1)
    return self.request.retries


@app.task(name="python.began")
def began():
    return time.time()


@app.task(name="python.sleep")
def sleep(seconds):
    time.sleep(seconds)
    return "slept"


@app.task(name="python.dies")
def dies():
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="python.ignores")
def ignores():
    raise Ignore()


@app.task(name="python.rejects", acks_late=True)
def rejects():
    raise Reject("not here", requeue=False)


@app.task(name="python.request", bind=True)
def request(self):
    told = self.request
    return {
        "id": told.id,
        "root_id": told.root_id,
        "parent_id": told.parent_id,
        "lang": told.headers and told.headers.get("lang") or told.get("lang"),
        "timelimit": told.timelimit,
        "tenant": told.get("tenant") or (told.headers or {}).get("tenant"),
    }


@app.task(name="python.sends_rust")
def sends_rust(x, y):
    """Calls Rust from inside a Python task, and does not wait for it."""
    return stubs["rust.add"].delay(x, y).id


def stub(name):
    """A task of Rust's, as a Python app declares one that it does not run itself."""

    @app.task(name=name)
    def body(*args, **kwargs):
        raise NotImplementedError(f"{name} runs in Rust")

    return body


# None of a task that is an error callback: Celery would call one with `*args` here instead of sending it.
stubs = {name: stub(name) for name in ("rust.add", "rust.sum", "rust.echo", "rust.fail", "rust.note")}
