"""Huey on SQLite: every commit synced. A job is deleted before it runs: one that is killed is lost."""

from contender import TEXT, URL, ran, serve, windowed
from huey import SqliteHuey

huey = SqliteHuey("peers", filename=URL, fsync=True, results=True)


@huey.task(name="peers_noop")
def noop(number, text):
    ran()
    return number


@huey.task(name="peers_noop_ignored")
def ignored(number, text):
    ran()


def one(count):
    for number in range(count):
        ignored(number, TEXT)


def rpc(count, in_flight):
    return windowed(
        count, in_flight, lambda number: noop(number, TEXT),
        lambda result: result(blocking=True, timeout=60, max_delay=0.001),
    )


def client():
    serve(one=one, rpc=rpc)
