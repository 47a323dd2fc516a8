"""Canvas: chains, groups and callbacks through both languages."""

import both
from both import app
from cases import case, eventually, get, raised, same, true
from celery import chain, group


def rust(name, *args, **kwargs):
    return app.signature(f"rust.{name}", args, kwargs)


def python(name, *args, **kwargs):
    # A Rust worker knows no routes of this app's: what follows one of its tasks names its queue.
    return app.signature(f"python.{name}", args, kwargs).set(queue=both.PYTHON_QUEUE)


def noted(word):
    eventually(word, lambda: get(app.send_task("rust.noted", (word,))))


@case("chain: rust, rust")
def _():
    same(get(chain(rust("add", 1, 2), rust("add", 10))()), 13)


@case("chain: python, rust, python")
def _():
    same(get(chain(python("add", 2, 3), rust("add", 10), python("add", 100))()), 115)


@case("chain: rust, python, rust")
def _():
    same(get(chain(rust("add", 1, 2), python("add", 10), rust("add", 100))()), 113)


@case("chain: ten steps in turn")
def _():
    steps = [rust("add", 0, 1), *(side("add", 1) for _ in range(5) for side in (python, rust))]
    same(get(chain(*steps)()), 11)


@case("chain: an immutable step")
def _():
    same(get(chain(rust("add", 1, 2), app.signature("rust.add", (5, 5), immutable=True), python("add", 1))()), 11)


@case("chain: the results of all its steps")
def _():
    last = chain(rust("add", 1, 2), python("add", 10), rust("add", 100))()
    same([get(last), get(last.parent), get(last.parent.parent)], [113, 13, 3])


@case("chain: root_id and parent_id of a step")
def _():
    first = rust("add", 1, 1).set(task_id="first-" + both.PYTHON_QUEUE)
    last = chain(first, rust("request_after"))()
    told = get(last)
    same([told["root_id"], told["parent_id"]], [first.options["task_id"]] * 2)


@case("chain: a failure in Rust reaches every id that remains")
def _():
    last = chain(python("add", 1, 1), rust("fails_with", "no luck"), python("add", 1), rust("add", 1))()
    ids = [last, last.parent, last.parent.parent]
    same([str(raised(result)) for result in ids], ["no luck"] * 3)
    same(get(last.parent.parent.parent), 2)


@case("chain: a failure in Python reaches every id that remains")
def _():
    last = chain(rust("add", 1, 1), python("fail_after", "no luck"), rust("add", 1), python("add", 1))()
    ids = [last, last.parent, last.parent.parent]
    same([f"{type(raised(result)).__name__}: {raised(result)}" for result in ids], ["ValueError: no luck"] * 3)


@case("chain: an unknown task in the middle reaches the last")
def _():
    last = chain(python("add", 1, 1), rust("missing"), python("add", 1))()
    same(type(raised(last)).__name__, "NotRegistered")


@case("chain: a step with a countdown")
def _():
    same(get(chain(rust("add", 1, 1), python("add", 1).set(countdown=0.3), rust("add", 1).set(countdown=0.3))()), 4)


@case("group: of both languages")
def _():
    result = group(rust("add", 1, 1), python("add", 2, 2), rust("add", 3, 3))()
    same(get(result), [2, 4, 6])


@case("group: after a Rust step")
def _():
    result = chain(rust("add", 1, 1), group(rust("add", 1), python("add", 2)))()
    same(get(result), [3, 4])


@case("group: a member fails")
def _():
    result = group(rust("add", 1, 1), rust("fail", "no luck"))()
    same(str(raised(result)), "no luck")
    same(get(result.results[0]), 2)


@case("group: of chains")
def _():
    result = group(chain(rust("add", 1, 1), python("add", 1)), chain(python("add", 2, 2), rust("add", 1)))()
    same(get(result), [3, 5])


@case("link: after Rust, in Rust and in Python")
def _():
    word = "linked " + both.PYTHON_QUEUE
    result = rust("add", 20, 20).apply_async(
        link=[python("add", 2).set(link=rust("note", word)), rust("note", word)]
    )
    same(get(result), 40)
    noted(f"{word} 40")
    noted(f"{word} 42")


@case("link: after Python, in Rust")
def _():
    word = "followed " + both.PYTHON_QUEUE
    same(get(python("add", 1, 2).apply_async(link=rust("note", word))), 3)
    noted(f"{word} 3")


@case("link_error: after Rust, in Python, which tells Rust")
def _():
    word = "erred " + both.PYTHON_QUEUE
    result = rust("fail", "no").apply_async(link_error=python("echo").set(link=rust("note_text", word)))
    raised(result)
    noted(f"{word} {result.id}")


@case("link_error: after Python, in Rust")
def _():
    word = "failed " + both.PYTHON_QUEUE
    result = python("fail", "ValueError", "no").apply_async(link_error=rust("failed", word))
    raised(result)
    noted(f"{word}: {result.id}")


@case("link_error: of a chain's later step")
def _():
    word = "late " + both.PYTHON_QUEUE
    failing = rust("fails_with", "no").on_error(rust("failed", word))
    result = chain(rust("add", 1, 1), failing)()
    raised(result)
    noted(f"{word}: {result.id}")


@case("a Python task that calls Rust from inside")
def _():
    identity = get(python("sends_rust", 4, 5).apply_async())
    true(isinstance(identity, str) and len(identity) == 36, "the id of a call", identity)


@case("chain: a float that is no number is refused, and every id that remains is told")
def _():
    last = chain(rust("echo", float("nan")), rust("add", 1), python("add", 1))()
    for result in (last, last.parent, last.parent.parent):
        error = raised(result)
        true("expected" in str(error), "why it cannot be read", error)


@case("link_error: not of a call that has expired, as in Celery")
def _():
    word = "expired " + both.PYTHON_QUEUE
    result = rust("add", 1, 1).apply_async(expires=-1, link_error=rust("note_text", word))
    same(type(raised(result)).__name__, "TaskRevokedError")
    failed = rust("fail", "no").apply_async(link_error=rust("note_text", word + " after"))
    raised(failed)
    noted(f"{word} after {failed.id}")
    same(get(app.send_task("rust.noted", (f"{word} {result.id}",))), False)
