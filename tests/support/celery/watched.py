"""The Python side of the tests of remote control: asks a worker everything, as `celery inspect` and `celery control`
do, and is a worker beside it that gossips and mingles."""

import json
import os
import sys

from celery import Celery

app = Celery("watched", broker=os.environ["INTEROP_BROKER"], backend="rpc://")
app.conf.update(task_default_queue=os.environ["INTEROP_QUEUE"], worker_hijack_root_logger=False)


# Known by name to Flower, which refuses to limit others.
@app.task(name="control.add")
def add(a, b):
    return a + b


@app.task(name="control.pass")
def pass_(number):
    return number


def ask(node, running):
    """Asks a worker everything and prints its answers, a JSON object."""
    inspect = app.control.inspect([node], timeout=15)
    asked = {
        name: getattr(inspect, name)()
        for name in ("ping", "active", "reserved", "scheduled", "revoked", "registered", "stats", "active_queues",
                     "conf", "clock", "report")
    }
    asked["query_task"] = inspect.query_task(running)
    print(json.dumps({name: answer and answer[node] for name, answer in asked.items()}))


def tell(node, running):
    """Tells a worker everything but to stop, and prints what it says to that, a JSON object."""
    queue = app.conf.task_default_queue + ".more"
    said = {}

    def tell(name, *args, **kwargs):
        method = getattr(app.control, name)
        answers = method(*args, destination=[node], reply=True, timeout=15, limit=1, **kwargs)
        said.setdefault(name, []).append(answers[0][node] if answers else None)

    tell("enable_events")
    tell("enable_events")
    tell("disable_events")
    tell("rate_limit", "control.add", "10/s")
    tell("rate_limit", "control.add", "10/q")
    tell("rate_limit", "no.such.task", "10/s")
    tell("rate_limit", "control.add", 0)
    tell("time_limit", "control.add", soft=5, hard=10)
    tell("pool_grow", 2)
    tell("pool_shrink", 1)
    tell("autoscale", 10, 3)
    tell("add_consumer", queue)
    tell("cancel_consumer", queue)
    tell("revoke", "later")
    tell("terminate", running)
    print(json.dumps(said))


def stamp(node, what):
    """Sends a stamped call of `control.pass`, and prints its id."""
    queue, number, batch = what.split("/")
    call = app.signature("control.pass", (int(number),), exchange="garenne", routing_key=queue)
    call.stamp(batch=batch)
    print(json.dumps(call.apply_async().id))


def revoke_stamped(node, batch):
    """Revokes calls by their stamp, those that run, too, and prints what the worker says."""
    answers = app.control.revoke_by_stamped_headers({"batch": [batch]}, destination=[node], terminate=True, reply=True,
                                                    timeout=15, limit=1)
    print(json.dumps(answers[0][node]))


if __name__ == "__main__":
    {"ask": ask, "tell": tell, "stamp": stamp, "revoke_stamped": revoke_stamped}[sys.argv[1]](*sys.argv[2:])
