"""The Python worker of the benchmark: the same task on the same queue as Rust's."""

import os

from celery import Celery
from kombu import Exchange, Queue

NAME = os.environ["INTEROP_QUEUE"]

app = Celery("beside", broker=os.environ["INTEROP_BROKER"], backend="rpc://")
app.conf.update(
    task_queues=[
        Queue(NAME, Exchange("garenne", no_declare=True), routing_key=NAME,
              queue_arguments={"x-queue-type": "quorum"}, no_declare=True)
    ],
    task_default_queue=NAME,
    worker_hijack_root_logger=False,
)
if os.environ["BESIDE_GUARANTEES"] == "late":
    # What a Rust worker promises: acknowledged after the work, and after the broker has the reply.
    app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True,
                    broker_transport_options={"confirm_publish": True})


@app.task(name="beside.length")
def length(text):
    return len(text)
