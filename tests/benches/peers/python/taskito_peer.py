"""Taskito on SQLite."""

from contender import SLOTS, TEXT, URL, ran, serve, windowed
from taskito import Queue

queue = Queue(db_path=URL, workers=SLOTS, scheduler_poll_interval_ms=1, scheduler_batch_size=SLOTS, push_dispatch=True)


@queue.task(name="peers.noop")
def noop(number, text):
    ran()
    return number


def one(count):
    for number in range(count):
        noop.delay(number, TEXT)


def many(count):
    for begin in range(0, count, 1000):
        noop.map([(number, TEXT) for number in range(begin, min(begin + 1000, count))])


def rpc(count, in_flight):
    return windowed(
        count, in_flight, lambda number: noop.delay(number, TEXT),
        lambda job: job.result(timeout=60, poll_interval=0.001, max_poll_interval=0.001),
    )


if __name__ == "__main__":
    serve(one=one, many=many, rpc=rpc)
