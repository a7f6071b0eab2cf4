"""A server that says yes to every command, some time later; a process of its own.

    python -m gwrelay_bench.slowsink SECONDS [CERTIFICATE]

Prints its port, which it has on each of HOSTS.  Offers no PIPELINING, so that a message takes
four replies; STARTTLS with a certificate.
"""

from gevent import monkey  # noqa: TID251  (a program of its own: it patches as __main__ does)

if __name__ == "__main__":
    monkey.patch_all()

import socket
import ssl
import sys
from contextlib import suppress

import gevent
import gevent.event
from gevent.server import StreamServer

from gwrelay_bench.machine import raise_file_limit

#: Each with its own listening socket: the kernel bounds how many connections one of them may
#: have waiting.
HOSTS = tuple(f"127.1.0.{n}" for n in range(1, 51))


def serve(delay_s: float, certificate: str) -> None:
    """Until the process ends; under TLS with the `certificate` file, if one is named."""
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)

    def serve(sock: socket.socket, _: object) -> None:
        with suppress(OSError):
            _converse(sock, delay_s, context)
        sock.close()

    raise_file_limit()
    port = 0
    for host in HOSTS:
        server = StreamServer((host, port), serve, backlog=4096)
        server.start()
        port = server.server_port
    print(port, flush=True)
    gevent.event.Event().wait()


def _converse(sock: socket.socket, delay_s: float, context: ssl.SSLContext | None) -> None:
    gevent.sleep(delay_s)
    sock.sendall(b"220 sink.example ESMTP\r\n")
    received = b""
    while chunk := sock.recv(16384):
        received += chunk
        while b"\r\n" in received:
            line, _, received = received.partition(b"\r\n")
            verb = line[:4].upper()
            gevent.sleep(delay_s)
            if verb == b"EHLO":
                offer = (
                    b"250-STARTTLS\r\n" if context and not isinstance(sock, ssl.SSLSocket) else b""
                )
                sock.sendall(b"250-sink.example\r\n" + offer + b"250 8BITMIME\r\n")
            elif verb == b"STAR" and context is not None:
                sock.sendall(b"220 go on\r\n")
                sock = context.wrap_socket(sock, server_side=True)
            elif verb == b"DATA":
                sock.sendall(b"354 go on\r\n")
                while not received.endswith(b"\r\n.\r\n"):
                    chunk = sock.recv(16384)
                    if not chunk:
                        return
                    received += chunk
                received = b""
                gevent.sleep(delay_s)
                sock.sendall(b"250 ok\r\n")
            elif verb == b"QUIT":
                return
            else:
                sock.sendall(b"250 ok\r\n")


if __name__ == "__main__":
    serve(float(sys.argv[1]), "".join(sys.argv[2:]))
