"""Cases: each is run, and printed as one line of JSON with what was expected and what came."""

import json
import sys
import time
import traceback

TIMEOUT = 20

cases = []


class Mismatch(Exception):
    """Something else came than what was expected."""


def case(name):
    """Registers a function as a case."""

    def register(function):
        cases.append((name, function))
        return function

    return register


def same(got, expected):
    """Fails the case unless both are equal, and of the same type."""
    if got != expected or type(got) is not type(expected):
        raise Mismatch(repr(expected), repr(got))


def true(condition, expected, got):
    """Fails the case unless the condition holds: what was expected in words, and what came."""
    if not condition:
        raise Mismatch(expected, repr(got))


def get(result):
    """A result, within a time that no healthy worker needs."""
    return result.get(timeout=TIMEOUT)


def raised(result):
    """The exception that a result is."""
    try:
        value = get(result)
    except Exception as error:  # which one it is, is what the case is about
        return error
    raise Mismatch("an exception", repr(value))


def eventually(what, condition):
    """Waits until the condition holds."""
    for _ in range(200):
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise Mismatch(what, "nothing within 20 s")


def run(wanted):
    """Runs the cases whose name contains `wanted`, one after the other."""
    for name, function in cases:
        if wanted not in name:
            continue
        began = time.monotonic()
        outcome = {"case": name}
        try:
            function()
        except Mismatch as mismatch:
            outcome["expected"], outcome["got"] = mismatch.args
        except Exception:
            outcome["expected"], outcome["got"] = "no error in the case itself", traceback.format_exc()
        outcome["seconds"] = time.monotonic() - began
        sys.stdout.write(json.dumps(outcome) + "\n")
        sys.stdout.flush()
