"""Times: when a call starts, until when it may, and how long it may take."""

import datetime
import time

from both import app
from celery import Celery
from cases import case, get, raised, same, true

send = app.send_task
UTC = datetime.timezone.utc


def due(result, at):
    """The call starts when it is due, and not much later."""
    late = get(result) - at
    true(0 <= late < 5, "a start at most 5 s after it was due, and not before", late)


@case("countdown")
def _():
    due(send("rust.began", countdown=0.4), time.time() + 0.4)


@case("eta in UTC")
def _():
    at = datetime.datetime.now(UTC) + datetime.timedelta(seconds=0.5)
    due(send("rust.began", eta=at), at.timestamp())


@case("eta in another time zone")
def _():
    zone = datetime.timezone(datetime.timedelta(hours=5, minutes=30))
    at = datetime.datetime.now(zone) + datetime.timedelta(seconds=0.5)
    due(send("rust.began", eta=at), at.timestamp())


@case("eta from an app that does not use UTC")
def _():
    local = Celery(broker=app.conf.broker_url, backend="rpc://")
    local.conf.update(enable_utc=False, timezone="America/New_York", task_routes=app.conf.task_routes)
    at = time.time() + 0.5
    due(local.send_task("rust.began", countdown=0.5), at)
    local.close()


@case("eta that is past")
def _():
    due(send("rust.began", eta=datetime.datetime.now(UTC) - datetime.timedelta(hours=1)), time.time() - 0.5)


@case("expires: it runs in time")
def _():
    same(get(send("rust.add", (1, 2), expires=60)), 3)


@case("expires before it is due: revoked")
def _():
    result = send("rust.add", (1, 2), countdown=1, expires=0.3)
    error = raised(result)
    same([type(error).__name__, str(error), result.state], ["TaskRevokedError", "expired", "REVOKED"])


@case("expires as a datetime")
def _():
    at = datetime.datetime.now(UTC) + datetime.timedelta(seconds=0.3)
    same(type(raised(send("rust.add", (1, 2), countdown=1, expires=at))).__name__, "TaskRevokedError")


@case("time_limit")
def _():
    result = send("rust.sleep", (30,), time_limit=0.3)
    same(type(raised(result)).__name__, "TimeLimitExceeded")
    same(result.state, "FAILURE")


@case("soft_time_limit")
def _():
    began = time.monotonic()
    error = raised(send("rust.sleep", (30,), soft_time_limit=0.3, time_limit=15))
    same(type(error).__name__, "SoftTimeLimitExceeded")
    true(time.monotonic() - began < 10, "the soft limit ends it", time.monotonic() - began)


@case("a time limit that is kept")
def _():
    same(get(send("rust.sleep", (0.01,), time_limit=20, soft_time_limit=10)), "slept")


@case("time_limit=0: no limit")
def _():
    same(get(send("rust.sleep", (0.05,), time_limit=0, soft_time_limit=0)), "slept")
