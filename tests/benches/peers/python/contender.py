"""What all contenders in Python share: what a job does, and how a client is steered."""

import asyncio
import collections
import os
import sys
import time

TEXT = "0123456789012345678901234567890123456789"
URL = os.environ["PEERS_URL"]
QUEUE = os.environ["PEERS_QUEUE"]
# A worker's slots; a client is not told any.
SLOTS = int(os.environ.get("PEERS_SLOTS", "1"))

_count = os.open(os.environ["PEERS_COUNT"], os.O_WRONLY | os.O_APPEND)


def ran():
    """All that a job does: one byte more in the file by which the driver counts."""
    os.write(_count, b".")


def windowed(count, in_flight, send, result):
    """Sends `count` jobs and awaits the oldest whenever `in_flight` are under way; the round trips in microseconds."""
    waiting, times = collections.deque(), []
    for number in range(count + in_flight):
        if len(waiting) == in_flight or (number >= count and waiting):
            began, handle = waiting.popleft()
            result(handle)
            times.append((time.perf_counter() - began) * 1e6)
        if number < count:
            waiting.append((time.perf_counter(), send(number)))
    return times


def serve(**actions):
    """Does what the lines of the standard input say, and answers each with a line."""
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            _done(_begin(actions, line))
        except Exception as error:
            _failed(error)


async def serve_async(**actions):
    """The same for actions that are coroutines."""
    loop = asyncio.get_running_loop()
    print("ready", flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        try:
            _done(await _begin(actions, line))
        except Exception as error:
            _failed(error)


def _begin(actions, line):
    name, *numbers = line.split()
    if name not in actions:
        raise NotImplementedError("cannot")
    return actions[name](*map(int, numbers))


def _done(times):
    print("done", *(int(time) for time in times or ()), flush=True)


def _failed(error):
    print("failed", " ".join(str(error).split()) or type(error).__name__, flush=True)
