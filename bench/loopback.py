"""Destinations of a bench: each has one exchange, on a loopback address of its own, all on one
port, and a name server knows them."""

import socket
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Self

from gwrelay_bench.sink import Sink
from gwrelay_bench.zone import NameServer, one_exchange_each


class Loopback(ABC):
    """Context manager: they are up inside it.  `addresses`: destination → its exchange's."""

    def __init__(self, addresses: Mapping[str, str]) -> None:
        self.addresses = addresses
        self.smtp_port = free_port()
        self.dns_port = 0
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            self._open(opened)
            server = NameServer(one_exchange_each(self.addresses))
            opened.callback(server.close)
            self.dns_port = server.port
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    @abstractmethod
    def _open(self, opened: ExitStack) -> None:
        """Let the exchanges listen; `opened` closes them."""

    def _serve(self, sink: Sink, destinations: Iterable[str], opened: ExitStack) -> None:
        """`sink` is the exchange of all of these."""
        opened.callback(sink.close)
        for name in destinations:
            sink.listen(self.addresses[name], self.smtp_port)


def free_port() -> int:
    """Free just now on every address."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
