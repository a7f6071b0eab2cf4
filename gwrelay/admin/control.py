"""The control socket as clients see it: where it is, and one request with its answer.

Lines of JSON over a Unix socket, in the order they are asked:

    {"command": "mx flush", "arguments": {"domains": ["example.com"]}}
    {"item": ...}                           any number of these, for what is a list; null: wait
    {"ok": true, "result": ...}
    {"ok": false, "status": 1, "error": "nothing is known of example.com"}

`status` is what the command exits with.  The other end is admin.py.  Loads nothing that takes
long.
"""

import contextlib
import os
import re
import socket
from collections.abc import Generator, Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from gwrelay.errors import CommandFailed, ConfigError, NotRunning

#: Of the longest request that is read.
REQUEST_MAX_BYTES = 64 * 1024
#: Seconds to wait for the next line of an answer: flushing a big cache takes none of them.
_ANSWER_S = 30.0
#: What fits sun_path with its NUL (Linux).
_LONGEST_PATH_BYTES = 107


class Answer(NamedTuple):
    """`items` of a list, and `result`, which may say more about it."""

    items: list[Any]
    result: Any


def ask(path: str, command: str, **arguments: Any) -> Answer:
    """Have the gateway at `path` do `command`.

    Raises NotRunning when none answers there, ConfigError when the socket is not ours to use,
    CommandFailed with what the gateway said no to.
    """
    items: list[Any] = []
    answering = stream(path, command, **arguments)
    while True:
        try:
            items.append(next(answering))
        except StopIteration as end:
            return Answer(items, end.value)


def stream(path: str, command: str, **arguments: Any) -> Generator[Any, None, Any]:
    """ask(), item by item, for what may be long; returns the result.

    An item that is None says only that the gateway is at it, and is left out.
    """
    request = msgspec.json.encode({"command": command, "arguments": arguments}) + b"\n"
    if len(request) > REQUEST_MAX_BYTES:
        raise CommandFailed(2, "too much at once for one command; give fewer names")
    with _connected(path) as sock:
        try:
            sock.sendall(request)
            with sock.makefile("rb") as lines:
                return (yield from _read(lines))
        except (OSError, EOFError) as error:
            raise NotRunning(f"the gateway at {path} broke off: {error}") from error


def worker_socket(gateway: str, worker: int) -> str:
    """Where a worker's control socket is.  The first one's is the gateway's, such as admin.sock;
    the others' are admin.worker-1.sock and so on."""
    stem, ending = os.path.splitext(gateway)
    return f"{stem}.worker-{worker}{ending}" if worker else gateway


def workers_at(gateway: str) -> dict[int, str]:
    """The control sockets there are, by worker; the first one's in any case."""
    found = {0: gateway}
    directory, name = os.path.split(gateway)
    stem, ending = map(re.escape, os.path.splitext(name))
    others = re.compile(rf"{stem}\.worker-([1-9][0-9]{{0,8}}){ending}")
    with contextlib.suppress(OSError):  # who tries the first one hears what is wrong
        for match in filter(None, map(others.fullmatch, os.listdir(directory or "."))):
            found[int(match[1])] = os.path.join(directory, match[0])
    return dict(sorted(found.items()))


@contextlib.contextmanager
def reachable(path: str) -> Iterator[str]:
    """A spelling of `path`, good for as long as this lasts, that fits a socket address.

    The directory is opened and named by its descriptor where the whole is too long.
    """
    if len(os.fsencode(path)) <= _LONGEST_PATH_BYTES:
        yield path
        return
    directory, name = os.path.split(path)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


def is_abandoned(path: str) -> bool:
    """Whether nobody listens at `path`, a Unix socket.  OSError when that cannot be told."""
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe,
        reachable(path) as spelling,
    ):
        probe.settimeout(1)
        try:
            probe.connect(spelling)
        except ConnectionRefusedError:
            return True
    return False


@contextlib.contextmanager
def _connected(path: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_ANSWER_S)
        try:
            with reachable(path) as spelling:
                sock.connect(spelling)
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            raise NotRunning(f"no gateway runs at {path}; start it, or give --spool") from None
        except OSError as error:
            raise ConfigError(f"--admin unix:{path}: {error.strerror or error}") from error
        yield sock


def _read(lines: Iterable[bytes]) -> Generator[Any, None, Any]:
    """Raises EOFError when the answer has no end, CommandFailed when that is a refusal."""
    for line in lines:
        said = msgspec.json.decode(line)
        if "item" in said:
            if said["item"] is not None:
                yield said["item"]
        elif said["ok"]:
            return said.get("result")
        else:
            raise CommandFailed(said["status"], said["error"])
    raise EOFError("no end of the answer")
