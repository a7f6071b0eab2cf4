"""What a supervisor gives to a worker when it starts it, and what the two say to each other.

Descriptors are inherited, and named on the worker's command line by --inherited.  The two talk by
lines of JSON over one pair of sockets:

    the worker                                       the supervisor
    {"ready": K}  it may be let go, and has          {"go": K}  begin; give out no id up to K
                  given out no id above K
    {"begun": true}  clients are served
    {"failed": "text", "status": 2}  it cannot start
    {"drained": true}  nothing is left in its directory, and it ends

The end of the line is the end of the other one.  Loads no gevent.
"""

import os
import socket
from collections.abc import Iterator
from typing import Any

import msgspec

from gwrelay.errors import ConfigError

_RECEIVE_BYTES = 4096


class Handover(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of descriptors, and what to do with them."""

    #: The page for board.Board, how many columns it has, and which is the worker's own.
    board: int
    columns: int
    column: int = 0
    #: What workers share of sites and of bad hosts, if there are several: relay.node's, and
    #: relay.nodemarks'.
    sites: int = -1
    marks: int = -1
    #: Sockets that listen; of one that drains too, for they say which addresses are ours.
    ports: tuple[int, ...]
    #: What the --config file held when the gateway started.
    config: int | None
    #: What certificate.share() has there; -1: clients have no TLS.
    certificate: int = -1
    #: The worker's end of the line.
    line: int = -1
    #: It takes no clients, and ends when nothing is left in its directory.
    drains: bool = False

    @property
    def descriptors(self) -> list[int]:
        config = [] if self.config is None else [self.config]
        shared = [one for one in (self.sites, self.marks, self.certificate) if one >= 0]
        return [self.board, *self.ports, self.line, *config, *shared]

    @property
    def config_content(self) -> bytes | None:
        # Not read(): all workers have one position in it.
        return (
            None if self.config is None else os.pread(self.config, os.fstat(self.config).st_size, 0)
        )

    def written(self) -> str:
        return msgspec.json.encode(self).decode()


def read_handover(text: str) -> Handover:
    """What written() wrote.  Raises ConfigError."""
    try:
        return msgspec.json.decode(text, type=Handover)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"--inherited: {error}; only a supervisor gives it") from None


def unnamed_file(content: bytes) -> int:
    """The descriptor of a file in memory, for Handover.config."""
    descriptor = os.memfd_create("gwrelay-config")
    os.pwrite(descriptor, content, 0)
    return descriptor


class Line:
    """One end of it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._received = b""

    def fileno(self) -> int:
        return self._sock.fileno()

    def say(self, **said: Any) -> None:
        """Whoever has gone does not hear it."""
        try:
            self._sock.sendall(msgspec.json.encode(said) + b"\n")
        except OSError:
            return

    def hear(self) -> Iterator[dict[str, Any]] | None:
        """What has come since, waiting for some of it; None when the other one has gone."""
        try:
            received = self._sock.recv(_RECEIVE_BYTES)
        except OSError:
            return None
        if not received:
            return None
        *lines, self._received = (self._received + received).split(b"\n")
        return map(msgspec.json.decode, lines)

    def close(self) -> None:
        self._sock.close()
