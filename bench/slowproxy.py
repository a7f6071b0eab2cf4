"""A proxy that passes bytes on, each way after half of a round trip; a process of its own.

    python -m gwrelay_bench.slowproxy PORT DELAY

PORT of loopback is where it passes them to, DELAY the round trip in milliseconds; prints its own
port.
"""

from gevent import monkey  # noqa: TID251  (a program of its own: it patches as __main__ does)

if __name__ == "__main__":
    monkey.patch_all()

import socket
import sys
import time
from contextlib import suppress

import gevent
from gevent.queue import Queue as Pipe
from gevent.server import StreamServer

HOST = "127.0.0.1"


def serve(port: int, one_way_s: float) -> None:
    """Until the process ends."""

    def connect(client: socket.socket, _: object) -> None:
        server = socket.create_connection((HOST, port))
        pairs = ((client, server), (server, client))
        gevent.joinall([gevent.spawn(_pass_on, *pair, one_way_s) for pair in pairs])

    proxy = StreamServer((HOST, 0), connect)
    proxy.start()
    print(proxy.server_port, flush=True)
    proxy.serve_forever()


def _pass_on(source: socket.socket, drain: socket.socket, one_way_s: float) -> None:
    """Everything `source` says reaches `drain` `one_way_s` later, however much is on the way."""
    drain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    pipe: Pipe = Pipe()

    def deliver() -> None:
        for due_at, chunk in pipe:
            gevent.sleep(max(0.0, due_at - time.monotonic()))
            drain.sendall(chunk)

    delivery = gevent.spawn(deliver)
    while chunk := source.recv(65536):
        pipe.put((time.monotonic() + one_way_s, chunk))
    pipe.put(StopIteration)
    delivery.join()
    with suppress(OSError):  # the other end may have gone first
        drain.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    serve(int(sys.argv[1]), float(sys.argv[2]) / 2000)
