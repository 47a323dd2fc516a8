"""Formats of the body other than plain JSON."""

from both import app
from cases import case, get, raised, same, true

send = app.send_task


def packed(compression):
    @case(f"compression: {compression}")
    def _():
        text = "garenne " * 1000
        same(get(send("rust.echo", (text,), compression=compression)), text)


def refused(name, **options):
    @case(f"{name}: refused with a failure")
    def _():
        error = raised(send("rust.add", (2, 3), **options))
        same(type(error).__name__, "ContentDisallowed")
        true("not accepted" in str(error), "why", error)


for compression in ("gzip", "zlib", "zstd"):
    packed(compression)
for compression in ("bzip2", "lzma"):
    refused(f"compression {compression}", compression=compression)
for serializer in ("pickle", "yaml"):
    refused(f"serializer {serializer}", serializer=serializer)


@case("msgpack")
def _():
    same(get(send("rust.echo", ({"a": [1, -2, 3.5, None, True, "é"]},), serializer="msgpack")),
         {"a": [1, -2, 3.5, None, True, "é"]})


@case("msgpack: bytes")
def _():
    same(get(send("rust.bytes", (b"\xff\x00",), serializer="msgpack")), b"\xff\x00")


@case("msgpack, compressed")
def _():
    same(get(send("rust.add", (2, 3), serializer="msgpack", compression="gzip")), 5)
