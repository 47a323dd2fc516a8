"""Queues that Python has made and Rust works, and the other way round."""

import time

import both
import kinds
from amqp.exceptions import PreconditionFailed
from cases import case, get, same, true
from celery import Celery

client = Celery("client", broker=both.app.conf.broker_url, backend="rpc://")
client.conf.update(task_queues=kinds.RUST)

PRIORITY, QUORUM, OURS = (queue.name for queue in kinds.RUST)


def declare():
    """Makes Rust's queues, as a Python worker of theirs would, and Celery's ladder where it has one."""
    with both.app.connection_for_write() as connection:
        for queue in kinds.RUST[:2]:
            queue.bind(connection.default_channel).declare()
        try:
            import kombu.transport.native_delayed_delivery as native
        except ImportError:  # before 5.5
            return
        native.declare_native_delayed_delivery_exchanges_and_queues(connection, "quorum")
        native.bind_queue_to_native_delayed_delivery_exchange(connection, kinds.RUST[1].bind(connection))


@case("queue of Rust's: without no_declare Python says what is wrong")
def _():
    # Before any other, since Celery declares a name once.
    naive = Celery(broker=both.app.conf.broker_url, backend="rpc://")
    try:
        naive.send_task("rust.add", (2, 3), queue=OURS)
    except PreconditionFailed as error:
        true("inequivalent arg" in str(error), "which argument differs", error)
    else:
        true(False, "PreconditionFailed", "sent")
    naive.close()


@case("queue of Python's with priorities: Rust takes the highest first")
def _():
    send = client.send_task
    busy = send("rust.sleep", (0.5,), queue=PRIORITY)
    low, high = (send("rust.began", queue=PRIORITY, priority=priority) for priority in (1, 9))
    get(busy)
    true(get(high) < get(low), "the one of priority 9 before that of priority 1", (get(low), get(high)))


@case("quorum queue of Python's: Rust works it")
def _():
    same(get(client.send_task("rust.add", (2, 3), queue=QUORUM)), 5)


@case("quorum queue of Python's: delays, by Celery's own ladder from 5.5 on")
def _():
    # Celery's ladder counts whole seconds.
    at = time.time() + 1.8
    late = get(client.send_task("rust.began", queue=QUORUM, countdown=1.8)) - at
    true(0 <= late < 5, "a start at most 5 s after it was due, and not before", late)


@case("quorum queue of Python's: Rust retries")
def _():
    same(get(client.send_task("rust.unsteady", (2,), queue=QUORUM)), 3)


@case("queue of Rust's: Python calls it, with no_declare")
def _():
    same(get(client.send_task("rust.add", (2, 3), queue=OURS)), 5)


@case("queue of Rust's: a delay")
def _():
    at = time.time() + 0.5
    late = get(client.send_task("rust.began", queue=OURS, countdown=0.5)) - at
    true(0 <= late < 5, "a start at most 5 s after it was due, and not before", late)


@case("queue of Rust's: through the exchange `garenne` nothing is declared")
def _():
    naive = Celery(broker=both.app.conf.broker_url, backend="rpc://")
    same(get(naive.send_task("rust.add", (2, 3), exchange="garenne", routing_key=OURS)), 5)
    naive.close()
