"""`gwrelay spool ...`: words in; spooltools.py does the rest, loaded when wanted."""

import importlib
from collections.abc import Sequence
from typing import Any

import click

from gwrelay.commands.options import given_spool, json_option, spool_option
from gwrelay.errors import ConfigError
from gwrelay.kinds import SHARE


@click.group("spool", short_help="Look into the spool.")
def spool_group() -> None:
    """Look into the spool.

    All but compact and repair read the log itself and change nothing: they work with and without
    a gateway running on it.
    """


@spool_group.command("stat")
@spool_option
@json_option
def spool_stat(directory: str | None, as_json: bool) -> int:
    """Say what the spool holds.

    For each worker: its segments with their frames, living bytes and dead share, the number of
    messages, the times of the oldest and the newest, and what it all takes of the disk.
    """
    return int(_tools().stat(given_spool(directory), as_json=as_json))


@spool_group.command("verify")
@spool_option
@json_option
def spool_verify(directory: str | None, as_json: bool) -> int:
    """Read every frame, and say what is lost or damaged.

    Names the place, the bytes and frames (at least), the messages of which the damaged bytes
    still tell, those that miss a part of their content, and what earlier starts kept aside.

    Exit status 0 when all is whole, 1 when anything is lost or damaged.
    """
    return int(_tools().verify(given_spool(directory), as_json=as_json))


@spool_group.command("dump", short_help="Print messages, or the content of one.")
@click.argument("ids", metavar="[ID]...", nargs=-1)
@spool_option
@click.option("--content", is_flag=True, help="Print the content of the one ID, byte for byte.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; without --content it always is.")
def spool_dump(ids: Sequence[str], directory: str | None, content: bool, as_json: bool) -> int:
    """Print messages, one line of JSON each: all, or those named, oldest first.

    With --content prints the content of one message as it was accepted, and not a byte of one
    that is damaged.

    Exit status 1 when a message is not there or damaged.
    """
    if content and (len(ids) != 1 or as_json):
        raise ConfigError("--content: prints one message as it is; give one ID, and no --json")
    tools = _tools()
    if content:
        return int(tools.dump_content(given_spool(directory), ids[0]))
    return int(tools.dump(given_spool(directory), ids))


@spool_group.command("repair", short_help="Drop messages whose content is damaged.")
@spool_option
@click.option("--dry-run", is_flag=True, help="Only say which these are.")
@json_option
def spool_repair(directory: str | None, dry_run: bool, as_json: bool) -> int:
    """Drop messages that miss a part of their content.

    They can never be delivered.  What is left of each is kept in the directory quarantine
    beside the segments: repair-ID.json (envelope and state) and repair-ID.content.  Nobody else
    is told: do so by the reverse-path in the report.  Changes nothing else in the log, but for
    what every start does.

    Exit status 3, with nothing done, while a gateway has the spool.
    """
    tools = _tools()
    return int(tools.repair(given_spool(directory), dry_run=dry_run, as_json=as_json))


@spool_group.command("compact", short_help="Give back the room of what is delivered.")
@spool_option
@click.option(
    "--ratio",
    default="0.5",
    show_default=True,
    metavar="SHARE",
    help="Compact files of the log in which more than this is dead.",
)
@json_option
def spool_compact(directory: str | None, ratio: str, as_json: bool) -> int:
    """Copy what still waits out of mostly dead files of the log, and give these back.

    A gateway does that by itself, in the background; this does all of it at once.  With --ratio 0
    every file goes in which anything is dead.

    Exit status 3, with nothing done, while a gateway has the spool.
    """
    try:
        share = SHARE.read(ratio)
    except ValueError as error:
        raise ConfigError(f"--ratio: {ratio!r} {error}; {SHARE.right}") from None
    return int(_tools().compact(given_spool(directory), share, as_json=as_json))


def _tools() -> Any:
    return importlib.import_module("gwrelay.commands.spooltools")
