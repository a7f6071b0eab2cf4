"""`gwrelay mx ...`: words in; mxtools.py does the rest, loaded when wanted."""

import importlib
from collections.abc import Sequence
from typing import Any

import click

from gwrelay.commands.options import admin_option, given_admin, json_option, spool_option
from gwrelay.commands.settingsoptions import SettingsCommand, config_option, load_settings
from gwrelay.errors import ConfigError
from gwrelay.given import NOT_GIVEN


@click.group("mx", short_help="Where mail for a domain goes, and which hosts are down.")
def mx_group() -> None:
    """Where mail for a domain goes, and which hosts are down.

    All but lookup ask the gateway that runs on --spool, and end with status 4 when none does.
    """


#: What decides where mail for a domain goes, and which gateway to ask for its marks.
_LOOKUP_SETTINGS = (
    *("listen", "spool", "nxdomain", "resolver", "dns_timeout_s", "mx_ttl_min_s", "mx_ttl_max_s"),
    *("mx_negative_ttl_s", "mx_max_hosts", "smarthost", "smtp_port", "ip_family", "cname_limit"),
    *("deny_host", "admin"),
)


@mx_group.command("lookup", cls=SettingsCommand, fields=_LOOKUP_SETTINGS)
@click.argument("domain")
@config_option
@json_option
def mx_lookup(
    domain: str, config: str | None, as_json: bool, **given: str | Sequence[str] | None
) -> int:
    """Ask name servers where mail for DOMAIN goes, and say why each host is where it is.

    Works with and without a gateway; one that runs on --spool adds its bad-host marks.  Takes the
    settings of serve that matter here.

    Exit status 1 when there is nowhere to send it to.
    """
    loaded = load_settings(config, given, spool=".")
    spool_given = loaded.given["spool"].origin != NOT_GIVEN
    asks = spool_given or not loaded.settings.admin.startswith("SPOOL/")
    return int(_tools().lookup(domain, loaded.settings, asks_gateway=asks, as_json=as_json))


@mx_group.command("cache")
@click.argument("domains", metavar="[DOMAIN]...", nargs=-1)
@spool_option
@admin_option
@json_option
def mx_cache(
    domains: Sequence[str], directory: str | None, admin: str | None, as_json: bool
) -> int:
    """Print what the gateway remembers of domains: all, or those named.

    For each: its exchanges and their addresses or why there are none, when it was last used, when
    it will be asked for again and when it expires.
    """
    at = given_admin(directory, admin)
    return int(_tools().cache(at, domains, as_json=as_json))


@mx_group.command("bad")
@spool_option
@admin_option
@json_option
def mx_bad(directory: str | None, admin: str | None, as_json: bool) -> int:
    """Print which hosts are marked bad, and until when."""
    return int(_tools().bad(given_admin(directory, admin), as_json=as_json))


@mx_group.command("flush")
@click.argument("domains", metavar="[DOMAIN]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Forget all domains.")
@spool_option
@admin_option
@json_option
def mx_flush(
    domains: Sequence[str],
    everything: bool,
    directory: str | None,
    admin: str | None,
    as_json: bool,
) -> int:
    """Forget what is remembered of domains: the next mail for them asks anew."""
    if everything == bool(domains):
        raise ConfigError("mx flush: name domains, or give --all")
    return int(_tools().flush(given_admin(directory, admin), domains, as_json=as_json))


@mx_group.command("mark-bad")
@click.argument("host")
@click.option(
    "--for", "lasts", metavar="DURATION", help="How long; --mx-bad-time's longest unless given."
)
@spool_option
@admin_option
@json_option
def mx_mark_bad(
    host: str, lasts: str | None, directory: str | None, admin: str | None, as_json: bool
) -> int:
    """Leave HOST, a name or an address, alone for a while.

    A name is marked at all its addresses.  Mail goes to the other exchanges of its domains, or
    waits.
    """
    at = given_admin(directory, admin)
    return int(_tools().mark_bad(at, host, lasts, as_json=as_json))


@mx_group.command("mark-good")
@click.argument("host")
@spool_option
@admin_option
@json_option
def mx_mark_good(host: str, directory: str | None, admin: str | None, as_json: bool) -> int:
    """Forget all marks of HOST, a name or an address, and let its mail go."""
    return int(_tools().mark_good(given_admin(directory, admin), host, as_json=as_json))


def _tools() -> Any:
    return importlib.import_module("gwrelay.commands.mxtools")
