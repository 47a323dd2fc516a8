"""Calls with their arguments and options."""

import both
from both import app, stubs
from celery import Celery
from cases import case, eventually, get, raised, same, true

send = app.send_task


@case("send_task")
def _():
    same(get(send("rust.add", (2, 3))), 5)


@case("task.delay of a stub")
def _():
    same(get(stubs["rust.add"].delay(2, 3)), 5)


@case("task.apply_async of a stub")
def _():
    same(get(stubs["rust.add"].apply_async((2,), {"b": 40})), 42)


@case("keyword arguments only")
def _():
    same(get(send("rust.greet", kwargs={"name": "Ann", "greeting": "good day"})), "good day, Ann")


@case("an optional parameter left out")
def _():
    same(get(send("rust.greet", ("Ann",))), "hello, Ann")


@case("an optional parameter that is None")
def _():
    same(get(send("rust.greet", ("Ann", None))), "hello, Ann")


@case("no result: None")
def _():
    same(get(send("rust.nothing")), None)


@case("an id of the caller's own")
def _():
    result = send("rust.request", task_id="my-own-id-" + both.PYTHON_QUEUE)
    same(get(result)["id"], result.id)


@case("root_id and parent_id")
def _():
    result = send("rust.request", root_id="the-root", parent_id="the-parent")
    same([get(result)[key] for key in ("root_id", "parent_id")], ["the-root", "the-parent"])


@case("a header of the user's")
def _():
    same(get(send("rust.header", ("tenant",), headers={"tenant": "t1"})), "t1")


@case("a stamp")
def _():
    signature = app.signature("rust.header", ("stamps",))
    signature.stamp(tenant="t2")
    same(get(signature.apply_async()), {"tenant": "t2"})


@case("ignore_result: it runs, and nothing comes")
def _():
    word = "ignored " + both.PYTHON_QUEUE
    result = send("rust.note", (1, word), ignore_result=True)
    eventually("the task has run", lambda: get(send("rust.noted", (f"{word} 1",))))
    same(result.get(timeout=1), None)
    same(result.state, "PENDING")


@case("the state and the result of a call that is done")
def _():
    result = send("rust.add", (1, 1))
    get(result)
    same([result.state, result.result, result.successful(), result.ready()], ["SUCCESS", 2, True, True])


@case("what a task tells while it runs: a state of its own")
def _():
    # Of an app of its own: states are seen only as long as no `get` has begun to consume the replies.
    fresh = Celery(broker=app.conf.broker_url, backend="rpc://")
    running = fresh.send_task("rust.tells", queue=both.RUST_QUEUE)
    eventually("PROGRESS", lambda: running.state == "PROGRESS")
    same(running.info, {"done": 3})
    same(get(running), 4)
    fresh.close()


@case("a large argument and a large result")
def _():
    text = "é" * 500_000
    same(get(send("rust.echo", (text,))), text)


@case("a hundred calls at once")
def _():
    results = [send("rust.add", (n, n)) for n in range(100)]
    same([get(result) for result in results], [2 * n for n in range(100)])


@case("a plain function of Rust's")
def _():
    same(get(send("rust.fib", (20,))), 6765)


@case("a plain message: delivery_mode, no compression, another routing")
def _():
    result = send("rust.add", (4, 4), exchange="", routing_key=both.RUST_QUEUE, delivery_mode=1)
    same(get(result), 8)


@case("a name with letters of other alphabets")
def _():
    same(get(send("rust.größe", ("日本",))), 2)


@case("a shadow name")
def _():
    same(get(send("rust.request", shadow="another.name"))["task"], "rust.request")


@case("revoke before it is due")
def _():
    word = "revoked " + both.PYTHON_QUEUE
    result = send("rust.note", (1, word), countdown=2)
    result.revoke()
    try:
        result.get(timeout=20)
    except Exception as error:  # which one it is, is what the case is about
        same([type(error).__name__, str(error)], ["TaskRevokedError", "revoked"])
    else:
        true(False, "TaskRevokedError", result.result)
    same(get(send("rust.noted", (f"{word} 1",))), False)
    same(result.state, "REVOKED")


@case("message protocol 1: refused, with the caller told")
def _():
    old = Celery(broker=app.conf.broker_url, backend="rpc://")
    old.conf.update(task_protocol=1, task_routes=app.conf.task_routes)
    error = raised(old.send_task("rust.add", (1, 2)))
    true("protocol 2" in str(error), "what it must send", error)
    old.close()
