"""The Python side of the tests of chords: Celery with its Redis backend, and tasks in both languages."""

import json
import os
import sys
import time

from celery import Celery, chain, chord, group
from celery.result import GroupResult
from celery.states import READY_STATES

QUEUE = os.environ["INTEROP_QUEUE"]

app = Celery("chords", broker=os.environ["INTEROP_BROKER"], backend=os.environ["INTEROP_REDIS"])
app.conf.update(task_default_queue=QUEUE, worker_hijack_root_logger=False)


@app.task(name="python.add")
def add(x, y):
    return x + y


@app.task(name="python.sum")
def total(values):
    return sum(values)


@app.task(name="python.list")
def listed(values):
    return values


@app.task(name="python.fail")
def fail(text):
    raise ValueError(text)


@app.task(name="python.failed")
def failed(id):
    app.backend.client.rpush(f"{QUEUE}.errbacks", f"python: {id}")


def python(name, *arguments, **options):
    return app.signature(f"python.{name}", arguments, queue=QUEUE, **options)


def rust(name, *arguments, **options):
    # Through this exchange, Python does not try to declare the queue in its own way.
    return app.signature(f"rust.{name}", arguments, exchange="garenne", routing_key=f"{QUEUE}-rust", **options)


def outcome(result, patience=30):
    # Otherwise it may be the failed member's exception that is raised, whichever is heard of first.
    options = {} if isinstance(result, GroupResult) else {"follow_parents": False}
    try:
        return result.get(timeout=patience, **options)
    except Exception as error:  # whatever class it arrives as is what the test wants to know
        return [type(error).__name__, str(error), getattr(result, "state", None)]


def pair(x):
    return [python("add", x, 1), rust("add", x, 2)]


def members():
    """Chords of all sorts of members and bodies."""
    flows = {
        "python body": chord(pair(1) + pair(10), python("sum")),
        "rust body": chord(pair(1) + pair(10), rust("sum")),
        "rust alone": chord([rust("add", n, 0) for n in range(20)], rust("list")),
        "python alone": chord([python("add", n, 0) for n in range(5)], rust("sum")),
        "chains": chord([chain(python("add", 1, 1), rust("add", 1)), chain(rust("add", 1, 1), python("add", 10)),
                         rust("add", 0, 5)], rust("list")),
        "chord in chord": chord([chord(pair(1), rust("sum")), chord(pair(10), python("sum")), rust("add", 1, 1)],
                                rust("list")),
        "group in chord": chord([chain(rust("add", 1, 1), group(rust("add", 1), python("add", 2))),
                                 rust("add", 0, 5)], rust("list")),
        "middle of a chain": chain(rust("add", 1, 1), group(rust("add", 1), python("add", 2)), python("list"),
                                   rust("list")),
        "two groups": chain(rust("add", 1, 1), group(rust("add", 1), rust("add", 2)), rust("sum"),
                            group(rust("add", 1), python("add", 2)), rust("sum"), rust("add", 100)),
        "end of a chain": chain(rust("add", 1, 1), group(rust("add", 1), python("add", 2))),
        "chain for a body": chord(pair(1), chain(rust("sum"), python("add", 100), rust("add", 1000))),
        "group for a body": chord(pair(1), group(rust("sum"), python("sum"))),
        "deep": chain(rust("add", 0, 1), group(chain(rust("add", 1), group(rust("add", 1), python("add", 2)),
                                                     rust("sum")), rust("add", 5)), rust("list")),
    }
    begun = {name: flow.apply_async() for name, flow in flows.items()}
    return {name: outcome(result) for name, result in begun.items()}


def failures():
    """Chords with a member that fails, whose body never runs."""
    told = rust("failed", "rust"), python("failed")

    def body(name, id):
        return rust(name).set(task_id=f"{QUEUE}-{id}", link_error=list(told))

    flows = {
        "rust fails": chord(pair(1) + [rust("fail", "no luck")], body("sum", "body-1")),
        "python fails": chord([python("fail", "no luck")] + pair(1), body("sum", "body-2")),
        "in a chain": chord([chain(rust("fail", "no luck"), python("add", 1)), rust("add", 1, 1)], body("sum", "body-3")),
        "in a chord": chord([chord([rust("fail", "no luck"), rust("add", 1, 1)], python("sum")), rust("add", 1, 1)],
                            body("sum", "body-4")),
        "then a chain": chord([rust("fail", "no luck")], chain(rust("sum"), python("add", 1))),
        "then a group": chord([rust("fail", "no luck")], group(rust("sum"), python("sum"))),
        "before a chord": chain(rust("fail", "no luck"), group(pair(1)[1], python("add", 1)), python("sum")),
        "before a chain": chain(rust("fail", "no luck"), python("add", 1), rust("add", 2), python("add", 3)),
    }
    begun = {name: flow.apply_async() for name, flow in flows.items()}
    ends = {name: outcome(result) for name, result in begun.items()}
    # Every step of a chain has failed, not the last alone.
    step, ends["steps"] = begun["before a chain"], []
    while step is not None:
        ends["steps"].append(step.state)
        step = step.parent
    ends["errbacks"] = []
    for _ in range(4):
        said = app.backend.client.blpop(f"{QUEUE}.errbacks", timeout=5)
        ends["errbacks"].append(said and said[1].decode())
    return ends


def twice():
    """A chord whose members are all sent twice: each counts once, and the body is sent once."""
    send = app.amqp.send_task_message

    def send_twice(*arguments, **options):
        send(*arguments, **options)
        return send(*arguments, **options)

    app.amqp.send_task_message = send_twice
    first = chord([rust("add", n, 0) for n in range(3)], rust("note", "once")).apply_async()
    return outcome(first)


def claimed():
    """A chord whose body somebody else was to send, and died."""
    body = chord([rust("add", n, 0) for n in range(3)] + [rust("pause", 1)], rust("list")).apply_async()
    app.backend.client.set(f"celery-taskset-meta-{body.parent.id}.c", "the claim of a dead worker", ex=3)
    end = outcome(body)
    # The body's result is there before its sender has tidied up.
    deadline = time.monotonic() + 10
    while len(left := app.backend.client.keys(f"celery-taskset-meta-{body.parent.id}*")) > 1:
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return {"end": end, "left": [key.decode()[-2:] for key in left],
            "done": app.backend.client.get(f"celery-taskset-meta-{body.parent.id}.c").decode()}


def groups():
    """Groups, and what they are once they were saved and restored."""
    several = group(pair(1) + [rust("add", 1, 1)]).apply_async()
    several.save()
    results = several.get(timeout=30)
    again = GroupResult.restore(several.id, app=app)
    return {"results": results, "done": [again.ready(), again.successful(), again.completed_count()]}


def restore():
    """A group that Rust has sent."""
    theirs = GroupResult.restore(sys.argv[2], app=app)
    return theirs and {"results": theirs.get(timeout=30), "done": [theirs.ready(), theirs.completed_count()]}


def state():
    """The states and infos of a call while it runs, each once, and then its result."""
    running, seen = app.AsyncResult(sys.argv[2]), []
    for _ in range(1500):
        # In one look: each attribute of its own would be another.
        kept = running.backend.get_task_meta(running.id)
        state, info = kept["status"], kept["result"]
        if [state, info] not in seen:
            seen.append([state, info])
        if state in READY_STATES:
            break
        time.sleep(0.02)
    return seen


def alone():
    """A chord that nobody can count, and one that would begin."""
    member = chord([rust("add", 1, 1)], rust("sum")).apply_async()
    first = chain(rust("add", 1, 1), group(rust("add", 1), rust("add", 2)), rust("sum")).apply_async()
    return [member.parent[0].id, first.parent.parent.id]


def declare():
    """Makes the queue as a Python app would, before anybody else does."""
    with app.connection_for_write() as connection:
        app.amqp.queues[QUEUE].bind(connection.default_channel).declare()


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]]()))
