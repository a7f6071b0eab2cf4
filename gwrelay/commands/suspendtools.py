"""`gwrelay suspend add`, `list` and `cancel`: asked of the gateway, and printed."""

from collections.abc import Mapping, Sequence
from typing import Any

from gwrelay.admin import suspensionfile
from gwrelay.commands import fleet, together
from gwrelay.commands.printing import at, count, plain, print_told, span
from gwrelay.config import TABLE
from gwrelay.errors import ConfigError, NotRunning
from gwrelay.notation import read_destination
from gwrelay.relay.suspensions import DOMAIN, SITE, SuspendedKey


def add(path: str, what: str, lasts: str, reason: str, *, as_json: bool) -> int:
    """Suspend mail for `what`."""
    kind = TABLE["connect_timeout_s"].kind
    try:
        for_s = kind.read(lasts)
    except ValueError as error:
        raise ConfigError(f"--for: {lasts!r} {error}; {kind.right}") from None
    word, name = _key(what)
    answers = fleet.ask_each(path, "suspend add", kind=word, name=name, for_s=for_s, reason=reason)
    [added] = together.suspended(answer.result for answer in answers)
    print_told(added, [_line(added)], as_json=as_json)
    return 0


def listed(path: str, directory: str | None, *, as_json: bool) -> int:
    """Print what is suspended; without a gateway what its spool says will be.

    Then NotRunning's status, after that.
    """
    status = 0
    try:
        answers = fleet.ask_each(path, "suspend list")
        found = together.suspended(one for answer in answers for one in answer.items)
    except NotRunning as error:
        if directory is None:
            raise
        found = [{**one._asdict(), "parked": None} for one in suspensionfile.read(directory)]
        status = error.exit_status
    print_told({"suspended": found}, map(_line, found), as_json=as_json)
    return status


def cancel(path: str, words: Sequence[str], *, everything: bool, as_json: bool) -> int:
    """End these suspensions, or all."""
    if everything == bool(words):
        raise ConfigError("suspend cancel: name what is suspended, or give --all")
    keys = [_key(word) for word in words]
    answers = fleet.ask_each(path, "suspend cancel", keys=keys, everything=everything)
    ended = max((answer.result for answer in answers), key=lambda one: int(one["ended"]))
    print_told(ended, [f"ended {count(ended['ended'], 'suspension')}"], as_json=as_json)
    return 0


def _key(what: str) -> SuspendedKey:
    """Raises ConfigError for what names neither a destination nor an exchange."""
    word, colon, name = what.partition(":")
    if not colon or what.startswith("["):
        word, name = DOMAIN, what
    if word not in (DOMAIN, SITE):
        raise ConfigError(f"{what!r}: write domain:example.com, or site:mx.example.com")
    try:
        return word, read_destination(name)
    except ValueError as error:
        raise ConfigError(
            f"{what!r} {error}; write domain:example.com, or site:mx.example.com"
        ) from None


def _line(one: Mapping[str, Any]) -> str:
    reason = f": {plain(one['reason'])}" if one["reason"] else ""
    parked = f", {count(one['parked'], 'delivery')} parked" if one["parked"] else ""
    lasts = span(one["until"] - one["since"])
    return (
        f"{one['kind']}:{one['name']} suspended since {at(one['since'])} until {at(one['until'])}"
        f" ({lasts}){parked}{reason}"
    )
