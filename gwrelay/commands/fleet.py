"""All workers of a gateway asked at once: each has a control socket of its own (control.py).

Where one of them does not answer, as while it is started again, the others do, and it is said
that something is left out.
"""

from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Any, TypeVar

import click

from gwrelay.admin import control
from gwrelay.admin.control import workers_at
from gwrelay.config import MOST_WORKERS
from gwrelay.errors import CommandFailed, NotRunning
from gwrelay.message.envelope import message_id

T = TypeVar("T")

#: Of CommandFailed: nothing of the kind is known.
_NO_MATCH_STATUS = 1


def ask_each(path: str, command: str, **arguments: Any) -> list[control.Answer]:
    """Have each worker of the gateway whose control socket is `path` do `command`.

    → the answers of those that know of such a thing, at least one.  Raises NotRunning when no
    worker answers; CommandFailed as one that would not do it, or when none knows of such a thing.
    """
    return _of_each(workers_at(path), lambda at: control.ask(at, command, **arguments))


def ask_one(path: str, command: str, message: str) -> control.Answer:
    """As ask_each(), of the one worker that has `message`, which is an id."""
    return _of_each(
        _likely_first(path, message), lambda at: control.ask(at, command, message=message)
    )[0]


def stream_each(path: str, command: str, **arguments: Any) -> list[Iterator[Any]]:
    """As ask_each(), item by item, for what may be long.  All that is refused is refused before
    this returns."""
    return _of_each(workers_at(path), lambda at: _begun(control.stream(at, command, **arguments)))


def stream_one(path: str, command: str, message: str) -> Iterator[Any]:
    """As stream_each(), of the one worker that has `message`."""
    return _of_each(
        _likely_first(path, message),
        lambda at: _begun(control.stream(at, command, message=message)),
    )[0]


def _likely_first(path: str, message: str) -> dict[int, str]:
    """An id says whose it is, but for those of before there were workers: where all refuse, it is
    this one that knows why."""
    workers = workers_at(path)
    likely = message_id(message) % MOST_WORKERS
    return {number: workers[number] for number in sorted(workers, key=lambda n: n != likely)}


def _begun(items: Iterator[T]) -> Iterator[T]:
    return chain(list(islice(items, 1)), items)


def _of_each(workers: dict[int, str], begin: Callable[[str], T]) -> list[T]:
    told: list[T] = []
    refusals: list[CommandFailed] = []
    silent: dict[int, NotRunning] = {}
    for number, path in workers.items():
        try:
            told.append(begin(path))
        except NotRunning as error:
            silent[number] = error
        except CommandFailed as error:
            refusals.append(error)
    if not told and not refusals:
        raise silent[0]
    for number in silent:
        click.echo(f"gwrelay: worker {number} does not answer: what it has is left out", err=True)
    grave = [refusal for refusal in refusals if refusal.exit_status != _NO_MATCH_STATUS]
    if grave or not told:
        raise (grave or refusals)[0]
    return told
