"""Options of the bench's tools, in notations of their own."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import click

from gwrelay.notation import read_duration
from gwrelay_bench.behaviour import DROP, TAKEN, Fault

_COMMANDS = ("CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "DOT")
#: When these come, it is known for whom.
_OF_RECIPIENTS = ("RCPT", "DATA", "DOT")
_REPLY = re.compile(r"[2-5][0-9]{2}( [ -~]*)?")
_ODDS = re.compile(r"[0-9]*\.?[0-9]+")
RIGHT_ADDRESS = "write one of this machine's, like 127.0.0.1, 0.0.0.0 or ::1"
_RIGHT_COMMAND = "COMMAND is connect, ehlo, mail, rcpt, data or dot"
RIGHT_DELAY = f"write COMMAND[@DOMAIN]:DURATION, like rcpt:100ms; {_RIGHT_COMMAND}"
RIGHT_FAULT = f"write COMMAND[@DOMAIN]:REPLY[:ODDS], like rcpt:450:0.1; {_RIGHT_COMMAND}"


def read_with(
    read: Callable[[str], Any], right: str
) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """A callback that reads the option's text, or each of its texts, by `read`, whose ValueError
    says what is wrong; `right` says what would be right."""

    def value_of(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise click.BadParameter(f"{text!r} {error}; {right}") from None

    def callback(ctx: click.Context, param: click.Parameter, given: Any) -> Any:
        if isinstance(given, tuple):
            return tuple(map(value_of, given))
        return None if given is None else value_of(given)

    return callback


class Delay(NamedTuple):
    """Of the reply to a command, where a recipient is of `domain`; "": always."""

    command: str
    domain: str
    delay_s: float


def read_delay(text: str) -> Delay:
    """`"rcpt@slow.example:100ms"`."""
    where, _, duration = text.partition(":")
    return Delay(*_read_command(where), read_duration(duration))


def read_fault(text: str) -> Fault:
    """`"rcpt@gone.example:550 5.1.1 gone:0.1"`."""
    where, _, rest = text.partition(":")
    command, domain = _read_command(where)
    before, colon, last = rest.rpartition(":")
    reply, odds = (before, _read_odds(last)) if colon and _ODDS.fullmatch(last) else (rest, 1.0)
    if reply == TAKEN and command != "DOT":
        raise ValueError("takes what was not sent yet: taken is for dot")
    if reply not in (DROP, TAKEN) and not _REPLY.fullmatch(reply):
        raise ValueError(f"has the reply {reply!r}")
    return Fault(command, f"{reply} no" if len(reply) == 3 else reply, odds, domain)


def _read_command(text: str) -> tuple[str, str]:
    command, at, domain = text.partition("@")
    if command.upper() not in _COMMANDS:
        raise ValueError(f"has the command {command!r}")
    if at and (not domain or command.upper() not in _OF_RECIPIENTS):
        raise ValueError("has a domain where none is known: that is for rcpt, data and dot")
    return command.upper(), domain.lower()


def _read_odds(text: str) -> float:
    odds = float(text)
    if not 0 < odds <= 1:
        raise ValueError(f"has odds of {text}, outside 0..1")
    return odds
