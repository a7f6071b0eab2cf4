"""`gwrelay status`, `gwrelay queue ...`, `gwrelay explain`: words in; queuetools.py and
explaintools.py do the rest, loaded when wanted.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import click

from gwrelay.commands.options import admin_option, given_admin, json_option, spool_option
from gwrelay.errors import ConfigError

_PREDICATES = """
    \b
    domain:example.com      the destination
    from:a@b.example        the reverse-path; from:@b.example: its domain; from:<>: none
    to:a@b.example          an open recipient; to:@b.example: its domain
    state:held              or state:waiting, state:relaying
"""


def _selecting(command: Callable[..., Any]) -> Callable[..., Any]:
    """Its help says what predicates there are."""
    command.__doc__ = (command.__doc__ or "").replace("PREDICATES\n", _PREDICATES.strip() + "\n")
    return command


@click.command(short_help="Say how a running gateway fares.")
@spool_option
@admin_option
@json_option
def status(directory: str | None, admin: str | None, as_json: bool) -> int:
    """Say how the gateway on --spool fares, on one screen.

    Exit status 4 when none runs there, after saying what its spool holds.
    """
    return int(_explain_tools().status(_where(directory, admin), as_json=as_json))


@click.command(short_help="Say why mail is where it is, and when it goes on.")
@click.argument("what", metavar="ID|DOMAIN")
@spool_option
@admin_option
@json_option
def explain(what: str, directory: str | None, admin: str | None, as_json: bool) -> int:
    """Say why a message, or mail for DOMAIN, is where it is.

    For each destination of a message: its state, what it waits for, since when and until when;
    what was said to its last attempt (remembered since the start of the gateway, for the last
    10,000); the sessions that are open and how many there may be; and the hosts that the next
    attempt tries, in order, with their bad-host marks.  For a domain: how much waits for it, and
    the same of its site and hosts.

    Exit status 1 when the message is not in the queue.
    """
    return int(_explain_tools().explain(_where(directory, admin), what, as_json=as_json))


@click.group("queue", short_help="Look at what waits, and hold, release, retry or delete it.")
def queue_group() -> None:
    """Look at what waits, and hold, release, retry or delete it.

    What is meant are deliveries: what one message still has open for one destination.  list,
    summary, show and cat work without a gateway too, and read all of the log then; the others end
    with status 4 when none runs on --spool.
    """


@queue_group.command("list", short_help="List deliveries.")
@click.argument("words", metavar="[ID|PREDICATE]...", nargs=-1)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="No more than this many.")
@spool_option
@admin_option
@json_option
@_selecting
def queue_list(
    words: Sequence[str],
    limit: int | None,
    directory: str | None,
    admin: str | None,
    as_json: bool,
) -> int:
    """List deliveries: all, or those for which each PREDICATE holds, the oldest first.

    PREDICATES

    For each its recipients, attempts, age, when it is due, and why it is not delivered yet.  With
    --json one object a line, times in Unix seconds.  Mail that is being loaded from the spool
    after a start is not there yet.

    Exit status 1 when IDs or predicates are given and nothing matches.
    """
    where = _where(directory, admin)
    return int(_queue_tools().listed(where, words, limit, as_json=as_json))


@queue_group.command("summary", short_help="Count deliveries by destination.")
@click.argument("words", metavar="[ID|PREDICATE]...", nargs=-1)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="The first N alone.")
@spool_option
@admin_option
@json_option
@_selecting
def queue_summary(
    words: Sequence[str],
    limit: int | None,
    directory: str | None,
    admin: str | None,
    as_json: bool,
) -> int:
    """Count deliveries by destination, those with most of them first.

    PREDICATES

    Exit status 1 when IDs or predicates are given and nothing matches.
    """
    where = _where(directory, admin)
    return int(_queue_tools().summary(where, words, limit, as_json=as_json))


@queue_group.command("show", short_help="Show a message and how it stands.")
@click.argument("message", metavar="ID")
@spool_option
@admin_option
@json_option
def queue_show(message: str, directory: str | None, admin: str | None, as_json: bool) -> int:
    """Show a message: envelope, size, and for each destination how it stands.

    What next hops said is remembered since the start of the gateway, for the last 10,000.

    Exit status 1 when it is not in the queue.
    """
    return int(_queue_tools().show(_where(directory, admin), message, as_json=as_json))


@queue_group.command("cat", short_help="Print the content of a message.")
@click.argument("message", metavar="ID")
@spool_option
@admin_option
def queue_cat(message: str, directory: str | None, admin: str | None) -> int:
    """Print the content of a message as it was accepted, byte for byte.

    Nothing is printed of one that is damaged.

    Exit status 1 when it is damaged or not in the queue.
    """
    return int(_queue_tools().cat(_where(directory, admin), message))


def _verb_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What hold, release, retry and delete take."""
    for option in (
        json_option,
        admin_option,
        spool_option,
        click.option("--dry-run", is_flag=True, help="Only say how many that would be."),
        click.option("--all", "everything", is_flag=True, help="Everything in the queue."),
        click.argument("words", metavar="[ID|PREDICATE]...", nargs=-1),
    ):
        command = option(command)
    return command


@queue_group.command("hold", short_help="Keep deliveries until they are released.")
@_verb_options
@click.option("--reason", default="", metavar="TEXT", help="Why, for people.  [by an operator]")
@_selecting
def queue_hold(reason: str, **given: Any) -> int:
    """Keep waiting deliveries until they are released, over restarts, however long that is.

    PREDICATES

    They are named by ID, or are those for which each PREDICATE holds.  All recipients at one
    destination go together.  What is being relayed just now, or is about to be, is left alone.

    Exit status 1 when nothing was there to hold, 4 when no gateway runs.
    """
    if "\n" in reason or len(reason) > _LONGEST_REASON:
        raise ConfigError(f"--reason: write one line of at most {_LONGEST_REASON} characters")
    return _carry_out("hold", reason=reason, **given)


@queue_group.command("release", short_help="Let deliveries on hold be tried again.")
@_verb_options
@_selecting
def queue_release(**given: Any) -> int:
    """Let deliveries on hold be tried again, at once.

    PREDICATES

    Exit status 1 when nothing was on hold, 4 when no gateway runs.
    """
    return _carry_out("release", **given)


@queue_group.command("retry", short_help="Let waiting deliveries be due now.")
@_verb_options
@_selecting
def queue_retry(**given: Any) -> int:
    """Let waiting deliveries be due now, whatever they wait for.

    PREDICATES

    Hosts that are marked bad stay so (see gwrelay mx mark-good): mail for them goes on waiting
    for the end of the mark.  What is on hold stays there.  What is in doubt, and left alone for
    --in-doubt-wait, is tried before that only if its ID is given: it may have been delivered, and
    the next hop may still be at work on it.

    Exit status 1 when nothing waited, 4 when no gateway runs.
    """
    return _carry_out("retry", **given)


@queue_group.command("delete", short_help="Drop deliveries without telling anybody.")
@_verb_options
@_selecting
def queue_delete(**given: Any) -> int:
    """Drop deliveries that wait or are on hold, for good.  The sender is not told.

    PREDICATES

    All recipients at one destination go together; --dry-run counts them.  What is being relayed
    just now, or is about to be, is left alone.

    Exit status 1 when nothing was deleted, 4 when no gateway runs.
    """
    return _carry_out("delete", **given)


#: Characters: it stays in memory, and in the log, with each delivery that is held.
_LONGEST_REASON = 200


def _carry_out(verb: str, *, directory: str | None, admin: str | None, **given: Any) -> int:
    return int(_queue_tools().carry_out(_where(directory, admin), verb, **given))


def _where(directory: str | None, admin: str | None) -> Any:
    return _queue_tools().Where(given_admin(directory, admin), directory or "")


def _queue_tools() -> Any:
    return importlib.import_module("gwrelay.commands.queuetools")


def _explain_tools() -> Any:
    return importlib.import_module("gwrelay.commands.explaintools")
