"""The control socket: a running gateway answers its operator's commands.  See control.py.

Which commands there are is a table: name → handler.  A handler gets the request's arguments and
returns the result; a generator's items leave one by one, so that a long list neither fills
memory nor stands in the way of mail.  One greenlet a client.  Who may connect is a matter of
files: mode 0600, in a directory that nobody else enters.
"""

import contextlib
import logging
import os
import socket
import stat
from collections.abc import Callable, Iterator, Mapping
from inspect import signature
from typing import Any, get_type_hints

import gevent
import msgspec
from gevent.pool import Pool
from gevent.server import StreamServer

from gwrelay.admin.control import REQUEST_MAX_BYTES, is_abandoned, reachable
from gwrelay.errors import CommandFailed, ConfigError

logger = logging.getLogger(__name__)

#: Arguments by name in, the result or a generator of items out.  Raises CommandFailed.
Handler = Callable[..., Any]

#: Clients at a time; the next one waits.
_CLIENTS = 16
#: Seconds a client may be silent, or not read what it asked for.
_CLIENT_S = 60.0
#: Items between two turns of the loop.
_ITEMS_AT_ONCE = 50


class Admin:
    """Listens at `path` from start() to close()."""

    def __init__(self, path: str, handlers: Mapping[str, Handler]) -> None:
        """Raises ConfigError when the socket cannot be made."""
        self._path = path
        self._commands = {name: _Command(name, do) for name, do in handlers.items()}
        self._socket = _listen(path)
        self._inode = os.stat(path).st_ino
        self._server = StreamServer(self._socket, self._converse, spawn=Pool(_CLIENTS))

    def start(self) -> None:
        self._server.start()

    def close(self) -> None:
        """Clients are cut off; the socket's file goes, unless somebody put another there."""
        self._server.stop(timeout=0)
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            if os.stat(self._path).st_ino == self._inode:
                os.unlink(self._path)

    def _converse(self, client: socket.socket, _address: object) -> None:
        client.settimeout(_CLIENT_S)
        # A client that goes away, or says nothing more, is the end of it.
        with client, client.makefile("rb") as requests, contextlib.suppress(OSError):
            while line := requests.readline(REQUEST_MAX_BYTES + 1):
                for part in self._answer(line):
                    client.sendall(part)
                if not line.endswith(b"\n"):
                    return  # what follows of it would pass for another request

    def _answer(self, line: bytes) -> Iterator[bytes]:
        """The lines to send, several at a time."""
        try:
            result = self._carry_out(line)
            if isinstance(result, Iterator):
                yield from _items(result)
                result = None
            yield _line({"ok": True, "result": result})
        except CommandFailed as refused:
            yield _refusal(refused.exit_status, str(refused))
        except Exception:
            logger.exception("the command %r", line[:200])
            yield _refusal(1, "internal error; the log of the gateway says more")

    def _carry_out(self, line: bytes) -> Any:
        """Raises CommandFailed, also for what is no request."""
        if len(line) > REQUEST_MAX_BYTES:
            raise CommandFailed(2, f"a request of more than {REQUEST_MAX_BYTES} bytes")
        try:
            request = msgspec.json.decode(line, type=_Request)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise CommandFailed(2, f"not a request: {error}") from error
        command = self._commands.get(request.command)
        if command is None:
            known = ", ".join(sorted(self._commands))
            raise CommandFailed(2, f"unknown command {request.command!r}; known are {known}")
        return command(request.arguments)


class _Request(msgspec.Struct):
    command: str
    arguments: dict[str, Any] = {}


class _Command:
    """A handler that gets nothing but what its signature says."""

    def __init__(self, name: str, handler: Handler) -> None:
        self._name = name
        self._handler = handler
        kinds = get_type_hints(handler)
        fields = [
            (p.name, kinds[p.name]) if p.default is p.empty else (p.name, kinds[p.name], p.default)
            for p in signature(handler).parameters.values()
        ]
        self._arguments = msgspec.defstruct("Arguments", fields, forbid_unknown_fields=True)

    def __call__(self, arguments: Mapping[str, Any]) -> Any:
        """Raises CommandFailed."""
        try:
            checked = msgspec.convert(arguments, type=self._arguments)
        except msgspec.ValidationError as error:
            raise CommandFailed(2, f"{self._name}: {error}") from error
        return self._handler(**msgspec.structs.asdict(checked))


def _items(result: Iterator[Any]) -> Iterator[bytes]:
    lines: list[bytes] = []
    for item in result:
        lines.append(_line({"item": item}))
        # None says that it takes a while: what there is must not wait for more.
        if len(lines) == _ITEMS_AT_ONCE or item is None:
            yield b"".join(lines)
            lines.clear()
            gevent.sleep(0)
    yield b"".join(lines)


def _refusal(status: int, text: str) -> bytes:
    return _line({"ok": False, "status": status, "error": text})


def _line(value: object) -> bytes:
    return msgspec.json.encode(value) + b"\n"


def _listen(path: str) -> socket.socket:
    """A socket at `path`, readable by its owner alone.  What a kill -9 left there is replaced.

    Raises ConfigError.
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with reachable(path) as spelling:
            _clear(path)
            before = os.umask(0o177)
            try:
                listening.bind(spelling)
            finally:
                os.umask(before)
        listening.listen(_CLIENTS)
    except OSError as error:
        listening.close()
        reason = error.strerror or str(error)
        raise ConfigError(f"--admin unix:{path}: {reason}; write unix:PATH") from error
    except ConfigError:
        listening.close()
        raise
    return listening


def _clear(path: str) -> None:
    """Take away a socket that nobody listens at.  Raises ConfigError for anything else."""
    try:
        is_socket = stat.S_ISSOCK(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise ConfigError(f"--admin unix:{path}: is there, and no socket; name another path")
    if not is_abandoned(path):
        raise ConfigError(f"--admin unix:{path}: another gateway answers there; name another path")
    os.unlink(path)
