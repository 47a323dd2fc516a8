"""Who is compared, and how each is started."""

import dataclasses

PYTHON = "{python}/python"


@dataclasses.dataclass
class Jobs:
    """How many jobs each measurement takes: up to a second's worth on a machine that does nothing else."""

    one: int = 500
    many: int = 2000
    run_one: int = 1000
    run_best: int = 3000
    rpc_one: int = 200
    rpc_many: int = 1000


@dataclasses.dataclass
class Contender:
    name: str
    # "RabbitMQ" or "SQLite".
    place: str
    client: list[str]
    # A worker with one slot, and one at its best: what the table says of it, its command, its slots.
    worker_one: tuple[str, list[str], int]
    worker_best: tuple[str, list[str], int]
    # What pip installs, or which binary of rust/ cargo builds.
    packages: tuple[str, ...] = ()
    binary: str = ""
    jobs: Jobs = dataclasses.field(default_factory=Jobs)
    # What stands before a file's name and after the broker's URL.
    scheme: str = ""
    options: str = ""
    # Rows that only differ in their worker publish as another row does.
    publishes: bool = True
    # Whether a sent job is known to be with the broker.
    confirms: bool = True


def garenne(name, place, options="", prefetch="strict"):
    scheme = "sqlite://" if place == "SQLite" else ""
    return Contender(
        name, place, ["{ours}", "client"],
        ("1 slot", ["{ours}", "worker", "1", prefetch], 1),
        ("32 slots", ["{ours}", "worker", "32", prefetch], 32),
        jobs=Jobs(500, 10000, 10000 if prefetch == "adaptive" else 2000, 10000, 400, 3000),
        scheme=scheme, options=options, publishes=prefetch == "strict",
    )


def in_rust(binary, name, place, jobs, best, confirms=True):
    command = ["{rust}/" + binary]
    return Contender(
        name, place, [*command, "client"], ("1 slot", [*command, "worker", "1"], 1),
        (f"{best} slots", [*command, "worker", str(best)], best), binary=binary, jobs=jobs,
        confirms=confirms,
    )


def celery(*options):
    quiet = ["--loglevel", "CRITICAL", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    return ["{python}/celery", "-A", "celery_peer", "worker", *quiet, *options]


def dramatiq(processes, threads):
    # Its prefetch would be twice the threads; of one thread that is not one job at a time.
    prefetch = ["env", "dramatiq_queue_prefetch=1"] if threads == 1 else []
    return [*prefetch, "{python}/dramatiq", "dramatiq_peer", "-p", str(processes), "-t", str(threads)]


def taskiq(processes, slots):
    return [
        "{python}/taskiq", "worker", "taskiq_peer:broker", "--log-level", "CRITICAL",
        "-w", str(processes), "--max-async-tasks", str(slots), "--ack-type", "when_executed",
    ]


def huey(workers):
    return [
        PYTHON, "-m", "huey.bin.huey_consumer", "huey_peer.huey", "-w", str(workers), "-d", "0.001", "-m", "0.001",
        "--no-periodic", "-q",
    ]


TASKITO = ["{python}/taskito", "worker", "--app", "taskito_peer:queue"]

CONTENDERS = [
    garenne("Garenne, classic queue", "RabbitMQ", "?queue_type=classic"),
    garenne("Garenne, classic queue, calls taken ahead", "RabbitMQ", "?queue_type=classic", "adaptive"),
    garenne("Garenne, quorum queue", "RabbitMQ"),
    garenne("Garenne, quorum queue, calls taken ahead", "RabbitMQ", "", "adaptive"),
    Contender(
        "Celery", "RabbitMQ", [PYTHON, "celery_peer.py"],
        ("1 process, prefetch 1", celery("-c", "1", "--prefetch-multiplier", "1"), 1),
        ("solo, prefetch 32", celery("--pool", "solo", "--prefetch-multiplier", "32"), 1),
        packages=("celery==5.7.0",),
    ),
    Contender(
        "Dramatiq", "RabbitMQ", [PYTHON, "dramatiq_peer.py"],
        ("1 thread, prefetch 1", dramatiq(1, 1), 1), ("2 × 16 threads", dramatiq(2, 16), 32),
        packages=("dramatiq[rabbitmq]==2.2.1",), jobs=Jobs(run_best=4000),
    ),
    Contender(
        "Taskiq", "RabbitMQ", [PYTHON, "taskiq_peer.py"],
        ("1 slot", taskiq(1, 1), 1), ("100 slots", taskiq(1, 100), 100),
        packages=("taskiq==0.13.0", "taskiq-aio-pika==0.6.1", "uvloop==0.23.0"),
    ),
    in_rust("rusty_celery", "rusty-celery", "RabbitMQ", Jobs(5000, 10000, 2000, 10000), 256, False),
    in_rust("apalis_amqp", "apalis-amqp", "RabbitMQ", Jobs(300, 600, 2000, 6000), 256, False),
    garenne("Garenne", "SQLite"),
    garenne("Garenne, calls taken ahead", "SQLite", "", "adaptive"),
    garenne("Garenne, synchronous=normal", "SQLite", "?synchronous=normal"),
    in_rust("apalis_sqlite", "apalis-sqlite", "SQLite", Jobs(500, 10000, 1000, 5000, 200, 1000), 32),
    Contender(
        "taskito", "SQLite", [PYTHON, "taskito_peer.py"],
        ("1 thread", TASKITO, 1), ("32 threads", TASKITO, 32), packages=("taskito==0.22.0",),
        jobs=Jobs(many=10000),
    ),
    Contender(
        "Huey", "SQLite", [PYTHON, "-c", "import huey_peer; huey_peer.client()"],
        ("1 thread", huey(1), 1), ("2 threads", huey(2), 2), packages=("huey==3.5.4",),
    ),
]
