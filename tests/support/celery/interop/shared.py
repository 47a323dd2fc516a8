"""The app of a Python worker that takes from queues of all kinds."""

import kinds
from both import app

app.conf.update(
    task_queues=kinds.PYTHON,
    task_default_queue=kinds.PYTHON[0].name,
    # So that it holds no more than it works at, and what waits has its place by its priority.
    task_acks_late=True,
)
