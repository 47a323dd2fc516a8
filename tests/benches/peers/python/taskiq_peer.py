"""Taskiq: confirmed publishes, acknowledged after the work. Its results need another backend, as Redis."""

import asyncio

from contender import QUEUE, SLOTS, TEXT, URL, ran, serve_async
from taskiq_aio_pika import AioPikaBroker, Exchange, Queue, QueueType

broker = AioPikaBroker(
    URL,
    qos=SLOTS,
    exchange=Exchange(name=QUEUE),
    task_queues=[Queue(name=QUEUE, type=QueueType.CLASSIC)],
    dead_letter_queue=Queue(name=f"{QUEUE}.dead", type=QueueType.CLASSIC),
)


@broker.task(task_name="peers.noop")
async def noop(number: int, text: str) -> int:
    ran()
    return number


async def one(count):
    for number in range(count):
        await noop.kiq(number, TEXT)


async def many(count):
    numbers = iter(range(count))

    async def sender():
        for number in numbers:
            await noop.kiq(number, TEXT)

    await asyncio.gather(*(sender() for _ in range(64)))


async def client():
    await broker.startup()
    await serve_async(one=one, many=many)
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(client())
