"""The file of --smarthost-auth: who we are to each smart host.

    HOST[:PORT] USERNAME PASSWORD        one line for each host; # begins a comment line

Parted by spaces or tabs; the password is the rest of the line, less spaces at its ends.  Without
a port the line is for every port of the host.  UTF-8.  No message ever has a password in it.
"""

import difflib
import os
import stat
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from gwrelay.errors import ConfigError
from gwrelay.notation import SmartHost, read_endpoint
from gwrelay.smtp.sasl import Credentials

_RIGHT = "write lines of HOST[:PORT] USERNAME PASSWORD"


class _Line(NamedTuple):
    number: int
    #: As in SmartHost, in lower case; port 0 is every port.
    host: str
    port: int
    credentials: Credentials


def read_credentials(path: str, smarthosts: Iterable[SmartHost]) -> dict[SmartHost, Credentials]:
    """By smart host, for those that have a line.

    Raises ConfigError for a file that others may read too, or with a line that is wrong or for
    none of `smarthosts`: a host misspelt would be spoken to without its password, and might
    refuse all mail for good.
    """
    origin = f"--smarthost-auth {path}"
    try:
        with open(path, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read()
    except OSError as error:
        raise ConfigError(f"{origin}: cannot be read: {error.strerror}") from None
    if mode & 0o077:
        raise ConfigError(
            f"{origin}: others may read it (mode {mode:04o}), and it holds passwords; "
            "chmod 600 it, and change them if anybody did"
        )
    return _assign(origin, list(_lines(origin, content)), tuple(smarthosts))


def _lines(origin: str, content: bytes) -> Iterator[_Line]:
    for number, raw in enumerate(content.split(b"\n"), 1):
        where = f"{origin}: line {number}"
        try:
            text = raw.decode().strip(" \t\r")
        except UnicodeDecodeError:
            raise ConfigError(f"{where}: is not UTF-8; {_RIGHT}") from None
        if text and not text.startswith("#"):
            yield _line(where, number, text)


def _line(where: str, number: int, text: str) -> _Line:
    words = text.replace("\t", " ", 2).split(None, 2)
    if len(words) < 3:
        missing = "password" if len(words) == 2 else "username and no password"
        raise ConfigError(f"{where}: has no {missing}; {_RIGHT}")
    host, username, password = words
    if any(ord(c) < 32 or ord(c) == 127 for c in username + password):
        raise ConfigError(f"{where}: has control characters; {_RIGHT}")
    try:
        endpoint = read_endpoint(host, port=0, lowest_port=0)
    except ValueError as error:
        raise ConfigError(f"{where}: {host!r} {error}; {_RIGHT}") from None
    return _Line(number, _plain(endpoint.host), endpoint.port, Credentials(username, password))


def _assign(
    origin: str, lines: list[_Line], smarthosts: tuple[SmartHost, ...]
) -> dict[SmartHost, Credentials]:
    """A line with a port beats one without."""
    known = {(_plain(hop.host), port): hop for hop in smarthosts for port in (0, hop.port)}
    seen: dict[tuple[str, int], int] = {}
    for line in lines:
        key = line.host, line.port
        if key in seen:
            raise ConfigError(
                f"{origin}: line {line.number}: line {seen[key]} is for the same host; keep one"
            )
        if key not in known:
            near = difflib.get_close_matches(line.host, [host for host, _ in known], n=1)
            hint = f"did you mean {near[0]}?" if near else "name it with --smarthost too"
            raise ConfigError(
                f"{origin}: line {line.number}: {line.host!r} is no smart host of ours; {hint}"
            )
        seen[key] = line.number
    by_key = {(line.host, line.port): line.credentials for line in lines}
    found = {
        hop: by_key.get((_plain(hop.host), hop.port), by_key.get((_plain(hop.host), 0)))
        for hop in smarthosts
    }
    return {hop: given for hop, given in found.items() if given is not None}


def _plain(host: str) -> str:
    return host.lower().removesuffix(".")
