"""Queues of all kinds, made by either side and used by both."""

import celery
from both import PYTHON_QUEUE
from kombu import Exchange, Queue

# A worker of Celery's takes from quorum queues from 5.5 on: before, it asks for a prefetch that they have not.
QUORUM = celery.__version__ >= "5.5"


def priority(name):
    """One with priorities, as `task_queue_max_priority` makes them."""
    return Queue(name, Exchange(name), routing_key=name, queue_arguments={"x-max-priority": 10})


def quorum(name):
    """A quorum queue behind a topic exchange, which is what Celery's own ladder of delays needs."""
    exchange = Exchange(name, type="topic")
    return Queue(name, exchange, routing_key=name, queue_arguments={"x-queue-type": "quorum"})


def rusts(name):
    """A queue that Rust has declared: used as it is, since Celery would declare it in its own way, and be refused."""
    # So that Celery knows which kind it is; nothing is declared with it.
    kind = {"x-queue-type": "quorum"} if QUORUM else None
    exchange = Exchange("garenne", no_declare=True)
    return Queue(name, exchange, routing_key=name, queue_arguments=kind, no_declare=True)


# What Rust works, and what the worker that `-A shared` starts does.
RUST = [priority(PYTHON_QUEUE + "-rust-priority"), quorum(PYTHON_QUEUE + "-rust-quorum"),
        rusts(PYTHON_QUEUE + "-rust-ours")]
PYTHON = [priority(PYTHON_QUEUE + "-priority"), rusts(PYTHON_QUEUE + "-ours")]
if QUORUM:
    PYTHON.append(quorum(PYTHON_QUEUE + "-quorum"))
