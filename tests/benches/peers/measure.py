"""One measurement: processes, the time that they take on the wall and of the processors."""

import os
import select
import signal
import subprocess
import time

PATIENCE = 60


class Failed(Exception):
    """Why there is no figure."""


def cpu_time(session):
    """Seconds of user and system time of all processes of a session, their dead children included."""
    ticks = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session:
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


class Process:
    """A child in a session of its own, by which it and its children are found."""

    OUTPUT = subprocess.DEVNULL

    def __init__(self, command, folder, environment, errors):
        self.errors = errors
        with open(errors, "w", encoding="utf-8") as file:
            self.child = subprocess.Popen(
                command, cwd=folder, env=environment, start_new_session=True, text=True,
                stdin=subprocess.PIPE, stdout=self.OUTPUT, stderr=file,
            )

    def why(self):
        """The last line that it wrote on its standard error."""
        with open(self.errors, encoding="utf-8", errors="replace") as file:
            lines = [line.strip() for line in file if line.strip()]
        return lines[-1][:300] if lines else "it said nothing"

    def stop(self):
        try:
            os.killpg(self.child.pid, signal.SIGTERM)
            self.child.wait(5)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            pass
        try:
            os.killpg(self.child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.child.wait()


class Client(Process):
    """A process that sends jobs as it is told, line by line."""

    OUTPUT = subprocess.PIPE

    def ready(self):
        if self._line() != "ready":
            raise Failed(f"the client did not start: {self.why()}")

    def do(self, action, *numbers):
        """Returns seconds, seconds of the processors, and what it measured."""
        cpu, began = cpu_time(self.child.pid), time.perf_counter()
        print(action, *numbers, file=self.child.stdin, flush=True)
        answer = self._line()
        seconds = time.perf_counter() - began
        word, _, rest = answer.partition(" ")
        if word != "done":
            raise Failed(rest or self.why())
        return seconds, cpu_time(self.child.pid) - cpu, [int(time) for time in rest.split()]

    def stop(self):
        """Lets it disconnect."""
        try:
            self.child.stdin.close()
            self.child.wait(3)
        except (OSError, subprocess.TimeoutExpired):
            pass
        super().stop()

    def _line(self):
        readable, _, _ = select.select([self.child.stdout], [], [], PATIENCE)
        if not readable:
            raise Failed(f"no answer within {PATIENCE} s")
        return self.child.stdout.readline().strip()


class Worker(Process):
    """A process that runs jobs; each appends a byte to the file `count`."""

    def run(self, count, base, expected):
        """Waits for `expected` jobs on top of `base`: jobs a second from the first to the last, and seconds of the processors for each."""
        first = None
        for now, done in self.watch(count, base, expected):
            if first is None and done:
                first = now, done, cpu_time(self.child.pid)
        began, before, cpu = first
        if done == before:
            raise Failed("all jobs ran at once: too few to measure")
        return (done - before) / (now - began), (cpu_time(self.child.pid) - cpu) / (done - before)

    def watch(self, count, base, expected):
        """When it was looked, and how many jobs have run on top of `base`, until `expected` have."""
        deadline = time.monotonic() + PATIENCE
        while True:
            now, done = time.perf_counter(), os.path.getsize(count) - base
            yield now, done
            if done >= expected:
                return
            if time.monotonic() > deadline:
                raise Failed(f"{done} of {expected} jobs ran within {PATIENCE} s: {self.why()}")
            if self.child.poll() is not None:
                raise Failed(f"the worker ended: {self.why()}")
            time.sleep(0.002)
