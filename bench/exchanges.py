"""Where the mail of a filled spool goes: a sink, a host that never greets, one that is down."""

import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Self

from gwrelay_bench.filling import DOWN, EARLY, LATE
from gwrelay_bench.sink import Sink
from gwrelay_bench.troubled import play_dead
from gwrelay_bench.zone import NameServer

_SINK, _SILENT, _DOWN = "127.0.0.1", "127.0.0.2", "127.0.0.3"
_HOSTS = {"mx.sink.example": _SINK, "mx.silent.example": _SILENT, "mx.down.example": _DOWN}


class Exchanges:
    """Context manager.  EARLY's exchange takes mail; LATE's is silent until wake_late()."""

    def __init__(self, *, down_hangs: bool = False) -> None:
        """`down_hangs`: connecting to the one that is down is not refused, but never answered."""
        self.sink = Sink(digest=False)
        self.smtp_port = self.sink.listen(_SINK)
        self._hanging = ExitStack()
        if down_hangs:
            play_dead((_DOWN, self.smtp_port), self._hanging)
        # Connections are taken by the kernel, and by nobody else: what is sent there stays
        # untried when the gateway stops.
        self._silent = socket.create_server((_SILENT, self.smtp_port))
        self._names = NameServer(_Domains({EARLY: "mx.sink.example", LATE: "mx.silent.example"}))
        self.dns_port = self._names.port

    def wake_late(self) -> None:
        self._names.table = _Domains({EARLY: "mx.sink.example", LATE: "mx.sink.example"})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._names.close()
        self._hanging.close()
        self._silent.close()
        self.sink.close()


class _Domains(Mapping[str, Mapping[str, list[str]]]):
    """A table for the name server without a row for each of very many domains."""

    def __init__(self, exchanges: Mapping[str, str]) -> None:
        self._exchanges = exchanges

    def __getitem__(self, name: str) -> Mapping[str, list[str]]:
        if name in _HOSTS:
            return {"A": [_HOSTS[name]]}
        if name.endswith("." + DOWN):
            return {"MX": ["10 mx.down.example."]}
        return {"MX": [f"10 {self._exchanges[name]}."]}

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (
            name in _HOSTS or name in self._exchanges or name.endswith("." + DOWN)
        )

    def __iter__(self) -> Iterator[str]:
        return iter([*_HOSTS, *self._exchanges])

    def __len__(self) -> int:
        return len(_HOSTS) + len(self._exchanges)
