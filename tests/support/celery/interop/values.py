"""Values: what goes over comes back as it was, with its type."""

import datetime

import both
from both import app
from cases import case, get, raised, same, true

send = app.send_task

ECHOED = {
    "nothing, truth, numbers": [None, True, False, 0, -1, 1.5, 1e300, 2**53 + 1],
    "integers of any size": [2**63, 2**64, 2**70, -(2**70), 10**40],
    "text of all planes": "é ü 日本 🦀 \u0000 \" \\ \u2028",
    "nested": {"a": [{"b": {"c": [[], {}, [1, [2, [3]]]]}}], "": {"__value__": 1}},
    "each of Python's types": dict(both.TYPED),
    "types deep inside": [{"at": [both.TYPED["datetime"], {"id": both.TYPED["uuid"]}]}],
}


def echo(name, value):
    @case(f"echo: {name}")
    def _():
        same(get(send("rust.echo", (value,))), value)


for name, value in ECHOED.items():
    echo(name, value)


def typed(name, value):
    @case(f"{name} as a typed parameter and result")
    def _():
        same(get(send(f"rust.{name}", (value,))), value)


for name in ("datetime", "date", "time", "decimal", "uuid", "bytes"):
    typed(name, both.TYPED[name])


@case("bytes that are text")
def _():
    same(get(send("rust.bytes", (b"hi",))), b"hi")


@case("datetime in another time zone: the same moment")
def _():
    moment = both.TYPED["datetime"].astimezone(datetime.timezone(datetime.timedelta(hours=-8)))
    same(get(send("rust.datetime", (moment,))), both.TYPED["datetime"])


@case("types in a struct's fields")
def _():
    order = {"number": both.TYPED["uuid"], "placed": both.TYPED["datetime"], "price": both.TYPED["decimal"]}
    same(get(send("rust.order", (order,))), order)


@case("tuples become lists")
def _():
    same(get(send("rust.echo", ((1, (2, 3)),))), [1, [2, 3]])


@case("an integer of 128 bits")
def _():
    same(get(send("rust.negate", (2**100,))), -(2**100))


@case("an integer that is too large for its parameter: TypeError")
def _():
    same(type(raised(send("rust.add", (2**70, 1)))), TypeError)


@case("a float that is no number: a failure, and no silence")
def _():
    error = raised(send("rust.echo", (float("nan"),)))
    true("JSON" in str(error) or "expected" in str(error), "why it cannot be read", error)


@case("what is no text: half a surrogate pair")
def _():
    same(type(raised(send("rust.greet", ("\ud800",)))), TypeError)
