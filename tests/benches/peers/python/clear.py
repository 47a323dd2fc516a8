"""Deletes the queues, and Taskiq's exchanges, whose names begin with what the command line says."""

import sys

import pika

connection = pika.BlockingConnection(pika.URLParameters(sys.argv[1]))
channel = connection.channel()
for name in sys.argv[2:]:
    for queue in (name, f"{name}.dead", f"{name}.DQ", f"{name}.XQ"):
        channel.queue_delete(queue)
    channel.exchange_delete(name)
connection.close()
