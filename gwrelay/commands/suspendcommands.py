"""`gwrelay suspend ...`: words in; suspendtools.py does the rest, loaded when wanted."""

import importlib
from collections.abc import Sequence
from typing import Any

import click

from gwrelay.commands.options import admin_option, given_admin, json_option, spool_option


@click.group("suspend", short_help="Send nothing to a domain or a host for a while.")
def suspend_group() -> None:
    """Send nothing to a domain or a host for a while.

    \b
    WHAT is one of
      domain:example.com     mail for that domain; example.com alone is the same
      site:mx.example.com    mail for all domains that have this exchange, or this smart host

    Mail goes on being accepted, and waits.  What is just being sent is sent.  Lifetimes are not
    longer for it: mail that comes to the end of its own meanwhile bounces.  Suspensions stay over
    a restart.
    """


@suspend_group.command("add")
@click.argument("what")
@click.option(
    "--for", "lasts", metavar="DURATION", default="5m", show_default=True, help="How long."
)
@click.option("--reason", metavar="TEXT", default="", help="Why; explain and list show it.")
@spool_option
@admin_option
@json_option
def suspend_add(
    what: str, lasts: str, reason: str, directory: str | None, admin: str | None, as_json: bool
) -> int:
    """Suspend WHAT, from now on.  What is suspended already is so until the new time."""
    at = given_admin(directory, admin)
    return int(_tools().add(at, what, lasts, reason, as_json=as_json))


@suspend_group.command("list")
@spool_option
@admin_option
@json_option
def suspend_list(directory: str | None, admin: str | None, as_json: bool) -> int:
    """List what is suspended, that which ends first at the top.

    Exit status 4 when no gateway runs on --spool, after listing what is suspended when it does.
    """
    at = given_admin(directory, admin)
    return int(_tools().listed(at, directory, as_json=as_json))


@suspend_group.command("cancel")
@click.argument("whats", metavar="[WHAT]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="End all suspensions.")
@spool_option
@admin_option
@json_option
def suspend_cancel(
    whats: Sequence[str],
    everything: bool,
    directory: str | None,
    admin: str | None,
    as_json: bool,
) -> int:
    """End the suspension of each WHAT: its mail goes out, as fast as sites take it.

    Exit status 1 when one of them is not suspended; then none is ended.
    """
    at = given_admin(directory, admin)
    return int(_tools().cancel(at, whats, everything=everything, as_json=as_json))


def _tools() -> Any:
    return importlib.import_module("gwrelay.commands.suspendtools")
