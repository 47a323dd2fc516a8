"""The Python part of a mixed fleet: its workers' app, and the client that sends half of the chains.
`fleet.py FIRST COUNT` sends chains, which begin in Python."""

import os
import sys
import time

from celery import Celery, chain
from kombu import Exchange, Queue

PYTHON_QUEUE = os.environ["INTEROP_QUEUE"]
RUST_QUEUE = PYTHON_QUEUE + "-rust"
JOURNAL = os.environ["FLEET_JOURNAL"]

app = Celery("fleet", broker=os.environ["INTEROP_BROKER"], backend="rpc://")
app.conf.update(
    task_queues=[
        Queue(PYTHON_QUEUE, Exchange(PYTHON_QUEUE), routing_key=PYTHON_QUEUE, queue_arguments={"x-queue-type": "quorum"})
    ],
    task_default_queue=PYTHON_QUEUE,
    # What it takes that nothing is lost: a delivery is acknowledged after the work, and after what follows the
    # work was confirmed.
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    broker_transport_options={"confirm_publish": True},
    worker_hijack_root_logger=False,
    worker_prefetch_multiplier=1,
)


@app.task(name="fleet.python", ignore_result=True)
def hop(number, place):
    time.sleep(0.025)
    # One line, in one write, at the file's end: whole, whoever else writes.
    journal = os.open(JOURNAL, os.O_WRONLY | os.O_APPEND)
    os.write(journal, f"{number} {place} python\n".encode())
    os.close(journal)
    return number


def rust(*args):
    return app.signature("fleet.rust", args, exchange="garenne", routing_key=RUST_QUEUE, ignore_result=True)


if __name__ == "__main__":
    first, count = map(int, sys.argv[1:])
    for number in range(first, first + count):
        chain(hop.s(number, 1), rust(2), hop.s(3).set(queue=PYTHON_QUEUE), rust(4)).apply_async(ignore_result=True)
