"""All contenders, in turns."""

import dataclasses
import os
import pathlib
import subprocess
import sys
import time

from measure import Client, Failed, Worker

# Jobs that are sent first, so that connections and queues are there.
WARM_UP = 20


@dataclasses.dataclass
class Stage:
    """What all measurements need."""

    # Where the programs are.
    places: dict
    amqp: str
    scratch: pathlib.Path
    folder: pathlib.Path
    # Of each number of jobs, one in so many.
    divisor: int
    turns: int = 0

    def begin(self, contender):
        """A place of its own for one contender in one round: the environment of its processes."""
        self.turns += 1
        queue = f"peers-{os.getpid()}-{self.turns}"
        at = self.scratch / f"{self.turns}.db" if contender.place == "SQLite" else self.amqp
        url = f"{contender.scheme}{at}{contender.options}"
        count = self.scratch / f"{self.turns}.count"
        count.touch()
        return {
            **os.environ, "PEERS_URL": url, "PEERS_QUEUE": queue, "PEERS_COUNT": str(count),
            "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "1", "RUST_BACKTRACE": "0",
        }

    def command(self, words):
        return [word.format(**self.places) for word in words]

    def jobs(self, contender):
        sizes = dataclasses.asdict(contender.jobs)
        return {name: max(number // self.divisor, 64) for name, number in sizes.items()}


class Turn:
    """One contender in one round."""

    def __init__(self, stage, contender):
        self.stage, self.contender = stage, contender
        self.environment = stage.begin(contender)
        self.errors = stage.scratch / "errors"
        self.jobs = stage.jobs(contender)
        # What waits in the queue.
        self.waiting = 0
        self.found = {}

    def note(self, name, measure):
        try:
            self.found[name] = measure()
        except Failed as failed:
            self.found[name] = str(failed)

    def play(self):
        command = self.stage.command(self.contender.client)
        client = Client(command, self.stage.folder, self.environment, f"{self.errors}.client")
        try:
            client.ready()
            self.send(client, "one", WARM_UP)
            if self.contender.publishes:
                self.note("one", lambda: self.send(client, "one", self.jobs["one"]))
                self.note("many", lambda: self.send(client, "many", self.jobs["many"]))
            self.note("run_one", lambda: self.run(client, self.contender.worker_one, "run_one"))
            self.note("run_best", lambda: self.run(client, self.contender.worker_best, "run_best", self.rpc))
        except Failed as failed:
            self.found.setdefault("one", str(failed))
        finally:
            client.stop()
        return self.found

    def send(self, client, action, count):
        seconds, cpu, _ = client.do(action, count)
        self.waiting += count
        return count / seconds, cpu / count * 1e6

    def fill(self, client, wanted):
        """Sends what is lacking, in the fastest way that works."""
        for action in ("many", "one"):
            lacking = wanted - self.waiting
            if lacking > 0 and not isinstance(self.found.get(action), str):
                try:
                    self.send(client, action, lacking)
                except Failed:
                    continue

    def run(self, client, worker, size, then=None):
        """The rate of a worker on a full queue, and its time of the processors for a job in microseconds."""
        self.fill(client, self.jobs[size])
        _, words, slots = worker
        environment = {**self.environment, "PEERS_SLOTS": str(slots)}
        count = self.environment["PEERS_COUNT"]
        # Before the worker is there: it may be done before this process has its turn again.
        base = os.path.getsize(count)
        process = Worker(self.stage.command(words), self.stage.folder, environment, f"{self.errors}.worker")
        try:
            rate, cpu = process.run(count, base, self.jobs[size])
            if then and self.contender.publishes:
                for _ in process.watch(count, base, self.waiting):
                    pass
                then(client)
        finally:
            process.stop()
            self.waiting = max(base + self.waiting - os.path.getsize(count), 0)
        return rate, cpu * 1e6

    def rpc(self, client):
        for name, in_flight in (("rpc_one", 1), ("rpc_many", 64)):
            self.note(name, lambda: self.calls(client, self.jobs[name], in_flight))

    def calls(self, client, count, in_flight):
        client.do("rpc", in_flight, in_flight)
        seconds, _, times = client.do("rpc", count, in_flight)
        times.sort()
        return count / seconds, times[len(times) // 2] / 1000, times[len(times) * 99 // 100] / 1000


def clear(stage):
    """Deletes the queues of all turns."""
    if not stage.amqp:
        return
    script = pathlib.Path(__file__).parent / "python/clear.py"
    names = [f"peers-{os.getpid()}-{turn}" for turn in range(1, stage.turns + 1)]
    subprocess.run([f"{stage.places['python']}/python", script, stage.amqp, *names], check=False)


def play(stage, contenders, missing, rounds):
    """What each contender did in each round."""
    samples = {}
    try:
        for number in range(rounds):
            for place in ("RabbitMQ", "SQLite"):
                there = [contender for contender in contenders if contender.place == place]
                # Who begins changes, so that nobody has the best place in every round.
                first = number * 3 % max(len(there), 1)
                for contender in there[first:] + there[:first]:
                    key = contender.name, place
                    print(f"round {number + 1} of {rounds}: {contender.name} ({place})", file=sys.stderr)
                    began = time.monotonic()
                    found = {"one": missing[key]} if key in missing else Turn(stage, contender).play()
                    samples.setdefault(key, []).append(found)
                    said = (f"{name} {one if isinstance(one, str) else round(one[0])}" for name, one in found.items())
                    print(f"  {time.monotonic() - began:.1f} s: {', '.join(said)}", file=sys.stderr)
    except (KeyboardInterrupt, SystemExit):
        print("ended early: what was measured so far follows", file=sys.stderr)
    finally:
        clear(stage)
    return samples
