"""Python calls Rust: the client of the interop suite. `to_rust.py [WORD]` makes the queue as a Python app would, says
so, waits for a line, and then runs the cases whose name has the word."""

import sys

import both
import calling  # noqa: F401
import canvas  # noqa: F401
import cases
import failing  # noqa: F401
import packing  # noqa: F401
import queues
import timing  # noqa: F401
import values  # noqa: F401


def declare():
    """Makes the queue of Rust's tasks, as `send_task` does the first time: classic, without arguments."""
    with both.app.connection_for_write() as connection:
        both.app.amqp.queues.select_add(both.RUST_QUEUE)
        both.app.amqp.queues[both.RUST_QUEUE].bind(connection.default_channel).declare()


if __name__ == "__main__":
    declare()
    queues.declare()
    print("declared", flush=True)
    sys.stdin.readline()
    cases.run(sys.argv[1])
