"""Failures: which exception a caller gets."""

import both
from both import app
from cases import case, eventually, get, raised, same, true

send = app.send_task


def name_of(error):
    return f"{type(error).__module__}.{type(error).__name__}"


def fails(result, name, text):
    """The exception is of this class, and says this."""
    error = raised(result)
    same([name_of(error), str(error)], [name, text])
    return error


@case("an error without a type of its own: Exception")
def _():
    fails(send("rust.fail", ("no luck",)), "builtins.Exception", "no luck")


@case("ParseIntError: ValueError")
def _():
    error = fails(send("rust.parse", ("x",)), "builtins.ValueError", "invalid digit found in string")
    true(isinstance(error, ValueError), "a real ValueError", error)


@case("TryFromIntError: OverflowError")
def _():
    same(type(raised(send("rust.shrink", (300,)))), OverflowError)


@case("io::Error: OSError")
def _():
    same(type(raised(send("rust.opens", ("/no/such/file",)))), FileNotFoundError)


@case("Utf8Error: UnicodeError")
def _():
    same(type(raised(send("rust.decodes"))), UnicodeError)


@case("Elapsed: TimeoutError")
def _():
    same(type(raised(send("rust.elapses"))), TimeoutError)


@case("an error type of the crate's own: a class of its name")
def _():
    error = raised(send("rust.own_error", ("7",)))
    same([type(error).__name__, str(error)], ["Broken", "broken: 7"])


@case("an error in an anyhow chain: all its causes")
def _():
    fails(send("rust.causes"), "builtins.Exception", "outer: inner")


@case("a panic")
def _():
    error = raised(send("rust.panics", ("oh",)))
    same(type(error).__name__, "Panic")
    true("oh" in str(error), "the panic's text", error)


@case("an unknown task: NotRegistered")
def _():
    error = raised(send("rust.missing"))
    same(name_of(error), "celery.exceptions.NotRegistered")
    true("rust.missing" in str(error), "the task's name", error)


@case("an argument of the wrong type: TypeError")
def _():
    error = raised(send("rust.add", ("two", 3)))
    same(type(error), TypeError)
    true("argument `a`" in str(error), "the argument's name", error)


@case("an argument missing: TypeError")
def _():
    error = raised(send("rust.add", (2,)))
    same([type(error), str(error)], [TypeError, "argument `b`: missing"])


@case("an argument too many: TypeError")
def _():
    same(type(raised(send("rust.add", (2, 3, 4)))), TypeError)


@case("an unknown keyword argument: TypeError")
def _():
    error = raised(send("rust.add", (2, 3), {"c": 4}))
    same([type(error), str(error)], [TypeError, "unknown argument `c`"])


@case("an argument given twice: TypeError")
def _():
    same(type(raised(send("rust.add", (2, 3), {"a": 4}))), TypeError)


@case("the traceback's text and the state")
def _():
    result = send("rust.fail", ("no luck",))
    raised(result)
    same([result.state, result.failed()], ["FAILURE", True])
    true("no luck" in result.traceback and "rust.fail" in result.traceback, "text", result.traceback)


@case("propagate=False returns the exception")
def _():
    error = send("rust.parse", ("x",)).get(timeout=20, propagate=False)
    true(isinstance(error, ValueError), "a ValueError", error)


@case("retries until it succeeds")
def _():
    same(get(send("rust.unsteady", (2,))), 3)


@case("retries run out: the last error, with all attempts in the traceback")
def _():
    result = send("rust.unsteady", (9,))
    error = raised(result)
    true("attempt 4" in str(error), "the fourth attempt's error", error)
    true("attempt 1: " in result.traceback, "the first attempt's error", result.traceback)


@case("a retry that the task asks for")
def _():
    same(get(send("rust.asks_again")), 2)


@case("retries that the caller counts from")
def _():
    same(get(send("rust.request", retries=2))["attempt"], 3)


@case("a permanent error is not retried")
def _():
    error = raised(send("rust.permanent"))
    true("attempt 1" in str(error), "the first attempt's error", error)


@case("link_error is called with the failed call's id")
def _():
    word = "told " + both.PYTHON_QUEUE
    result = send("rust.fail", ("no",), link_error=app.signature("rust.failed", (word,)))
    raised(result)
    eventually("the callback", lambda: get(send("rust.noted", (f"{word}: {result.id}",))))
