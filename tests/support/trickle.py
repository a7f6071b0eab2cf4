"""A proxy that passes on what a server says, byte by byte from some point on."""

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Self

#: Seconds between two bytes.
EVERY_S = 0.05


class Trickle:
    """Listens on loopback for one client of `server`; slow once `marker` has passed, or `slow`
    is set."""

    def __init__(self, server: tuple[str, int], marker: bytes | None = None) -> None:
        self._server = server
        self._marker = marker
        self.slow = threading.Event()
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._over.set()
        for sock in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for sock in (self._listener, *self._sockets):
            sock.close()

    def _spawn(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        server = socket.create_connection(self._server)
        self._sockets += (client, server)
        self._spawn(self._pass_on, client, server, False)
        self._pass_on(server, client, True)

    def _pass_on(self, source: socket.socket, sink: socket.socket, may_be_slow: bool) -> None:
        with contextlib.suppress(OSError):
            while octets := source.recv(65536):
                if may_be_slow and self.slow.is_set():
                    self._trickle(sink, octets)
                else:
                    sink.sendall(octets)
                    if self._marker is not None and self._marker in octets:
                        self.slow.set()
            sink.shutdown(socket.SHUT_WR)

    def _trickle(self, sink: socket.socket, octets: bytes) -> None:
        for at in range(len(octets)):
            if self._over.wait(EVERY_S):
                return
            sink.sendall(octets[at : at + 1])
