"""The Python side of the tests with Celery: a worker's tasks, and a client that calls Rust's."""

import json
import os
import sys
import time

import kombu.transport.native_delayed_delivery as native
from celery import Celery, chain

QUEUE = os.environ["INTEROP_QUEUE"]
RUST_QUEUE = QUEUE + "-rust"

app = Celery("interop", broker=os.environ["INTEROP_BROKER"], backend="rpc://")
app.conf.update(task_default_queue=QUEUE, worker_hijack_root_logger=False)

if os.environ.get("INTEROP_QUEUE_TYPE") == "quorum":
    # Its own ladder of delays, which Celery uses with quorum queues behind topic exchanges.
    app.conf.update(task_default_queue_type="quorum", task_default_exchange_type="topic")


@app.task(name="python.add")
def add(x, y):
    return x + y


@app.task(name="python.fail")
def fail(text):
    raise ValueError(text)


@app.task(name="python.unsteady", bind=True)
def unsteady(self):
    if self.request.retries < 1:
        raise self.retry(countdown=0.1)
    return self.request.retries


@app.task(name="python.sum")
def total(values):
    return sum(values)


def rust(task, *arguments, **options):
    """A call of a Rust task. Through this exchange, Python does not try to declare the queue in its own way."""
    return app.signature(task, arguments, exchange="garenne", routing_key=RUST_QUEUE, **options)


@app.task(name="python.tells", bind=True)
def tells(self):
    self.update_state(state="UPLOADING", meta={"done": 1})
    time.sleep(0.3)
    return 2


def declare():
    """Makes the queue as a Python app would, before anybody else does."""
    with app.connection_for_write() as connection:
        app.amqp.queues[QUEUE].bind(connection.default_channel).declare()


def ladder():
    """Makes the queue and Celery's ladder of delays, as a worker of Celery's that consumed it would."""
    with app.connection_for_write() as connection:
        queue = app.amqp.queues[QUEUE]
        queue.bind(connection.default_channel).declare()
        native.declare_native_delayed_delivery_exchanges_and_queues(connection, "quorum")
        native.bind_queue_to_native_delayed_delivery_exchange(connection, queue)


def delayed():
    """Sends calls down Celery's ladder, and prints how late each started, in seconds, and what it saw."""
    calls = []
    for countdown in (1, 1.8, 3):
        due = time.time() + countdown
        calls.append((due, app.send_task("rust.begins", countdown=countdown)))
    outcome = []
    for due, running in calls:
        started, *seen = running.get(timeout=30)
        outcome.append([started - due, *seen])
    print(json.dumps(outcome))


def call():
    """Calls Rust's tasks and prints what came of it, a JSON object."""
    send = app.send_task
    # First, since a state can be looked up only as long as no `get` has begun to consume the replies.
    running = send("rust.tells")
    for _ in range(1000):
        if running.state != "PENDING":
            break
        time.sleep(0.02)
    outcome = {
        "progress": [running.state, running.info, running.get(timeout=20)],
        "sum": send("rust.add", (2, 3)).get(timeout=20),
        "named": send("rust.add", (2,), {"b": 40}).get(timeout=20),
        "delayed": send("rust.add", (1, 1), countdown=0.3).get(timeout=20),
    }
    for name, arguments in [("rust.fail", ("no luck",)), ("rust.missing", ()), ("rust.add", ("two", 3))]:
        try:
            send(name, arguments).get(timeout=20)
        except Exception as error:  # whatever class it arrives as is what the test wants to know
            outcome[name + str(len(arguments))] = [type(error).__name__, str(error)]
    print(json.dumps(outcome))


def python(x, *arguments):
    """A call of `add` here. A Rust worker sends what names no queue to the queue that it has it from."""
    return add.s(x, *arguments).set(queue=QUEUE)


def flow():
    """Chains through Rust's tasks, and callbacks between the two sides."""
    outcome = {
        "chain": chain(python(2, 3), rust("rust.add", 10), python(100))().get(timeout=20),
        "rust first": chain(rust("rust.add", 1, 2), python(10), rust("rust.add", 100))().get(timeout=20),
    }
    failing = chain(python(1, 1), rust("rust.fails_with", "no luck"), python(1), rust("rust.add", 1))
    for name, result in [("failed", failing()), ("failed parent", failing().parent)]:
        try:
            result.get(timeout=20)
        except Exception as error:
            outcome[name] = [type(error).__name__, str(error)]
    # What they say, the Rust side hears.
    rust("rust.add", 20, 20).apply_async(link=[python(2), rust("rust.note", "linked")])
    rust("rust.fails_with", 1, "oh").apply_async(link_error=rust("rust.failed", "rust"), task_id="failing-rust")
    fail.apply_async(("oh",), link_error=rust("rust.failed", "python"), task_id="failing-python")
    print(json.dumps(outcome))


if __name__ == "__main__":
    commands = {"declare": declare, "call": call, "ladder": ladder, "delayed": delayed, "flow": flow}
    commands[sys.argv[1]]()
