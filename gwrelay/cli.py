"""The command line: words in, settings and an exit status out.

Options, their help and their defaults come from config.TABLE.  Never imports gevent, and
nothing that takes long: a command loads what it needs when it runs.
"""

import importlib
import os
import platform
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import click
import msgspec

from gwrelay import __version__
from gwrelay.clioptions import (
    admin_option,
    given_admin,
    given_spool,
    json_option,
    spool_option,
)
from gwrelay.cliqueue import explain, queue_group, status
from gwrelay.clisuspend import suspend_group
from gwrelay.config import (
    CONFIG_VARIABLE,
    DESTINATION,
    NOT_GIVEN,
    SECTIONS,
    SHARE,
    TABLE,
    Given,
    Loaded,
    Setting,
    load,
)
from gwrelay.errors import ConfigError, GatewayError
from gwrelay.handover import Handover, read_handover

USAGE_STATUS = 2
#: As a shell says of SIGINT.
INTERRUPTED_STATUS = 130
#: What the benches run instead of `serve`; of no use to people, and not listed.
METERED = "metered"

_SOURCES = (
    "Every setting is also a variable (--max-hops: GWRELAY_MAX_HOPS) and a key of the TOML file "
    'named with --config (max-hops = 100, client-timeout = "5m").  A flag beats a variable, a '
    "variable the file, the file the default.  Lists are written with commas, or by repeating "
    "the flag."
)


class SettingOption(click.Option):
    """One row of config.TABLE as an option: plain text, which config.load reads."""

    def __init__(self, field: str, setting: Setting) -> None:
        shown = "none" if setting.default == "" else setting.default
        super().__init__(
            [f"--{setting.flag}", field],
            metavar=setting.kind.metavar,
            multiple=setting.kind.repeatable,
            help=setting.help + (f"  [{shown}]" if shown else ""),
        )
        self.section = setting.section


class SettingsCommand(click.Command):
    """A command that takes settings, all or these, its --help in the table's sections."""

    def __init__(
        self,
        name: str | None,
        *,
        params: Sequence[click.Parameter],
        fields: Sequence[str] = tuple(TABLE),
        **others: Any,
    ) -> None:
        settings = [SettingOption(field, TABLE[field]) for field in fields]
        super().__init__(name, params=[*params, *settings], epilog=_SOURCES, **others)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section in ("Options", *SECTIONS):
            records = [
                record
                for option in self.get_params(ctx)
                if getattr(option, "section", "Options") == section
                and (record := option.get_help_record(ctx))
            ]
            if records:
                with formatter.section(section):
                    formatter.write_dl(records)


_config_option = click.option(
    "--config",
    metavar="FILE",
    envvar=CONFIG_VARIABLE,
    help=f"Read settings from this TOML file.  Also {CONFIG_VARIABLE}.",
)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (default: the process's) name; returns its exit status.

    Mistakes are one line each on standard error.  What nobody foresaw is raised.
    """
    try:
        outcome = gwrelay.main(arguments, prog_name="gwrelay", standalone_mode=False)
        return int((outcome() if callable(outcome) else outcome) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED_STATUS
    except GatewayError as error:
        for line in str(error).splitlines():
            click.echo(f"gwrelay: error: {line}", err=True)
        return error.exit_status
    except BrokenPipeError:
        if not _reader_left():
            raise
        return 1


def _reader_left() -> bool:
    """Whether a broken pipe was our standard output (`| head`), not a socket of the gateway."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered has nowhere to go, and Python would say so at exit.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return True
    return False


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.pass_context
def gwrelay(ctx: click.Context) -> None:
    """An outbound SMTP relay gateway that loses nothing it accepted."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


# `serve` and `demo` return what is to be run: click would take an EOFError or a broken pipe
# of theirs for its own and end in silence.


@gwrelay.command(cls=SettingsCommand)
@_config_option
@click.option("--worker", type=click.IntRange(min=0), hidden=True)
@click.option("--inherited", hidden=True)
def serve(
    config: str | None,
    worker: int | None,
    inherited: str | None,
    **given: str | Sequence[str] | None,
) -> Callable[[], int]:
    """Run the relay.

    Runs until SIGTERM or SIGINT; SIGHUP reopens the log and the events.  To begin with:

    gwrelay serve --spool DIR --listen 127.0.0.1:2525 --hostname gw.example.com
    """
    if worker is not None:
        handover = None if inherited is None else read_handover(inherited)
        content = None if handover is None else handover.config_content
        settings = _load(config, given, content=content).settings
        service = importlib.import_module("gwrelay.service")
        return lambda: int(service.serve(settings, worker, handover))
    content = _read_file(config)
    settings = _load(config, given, content=content).settings
    supervisor = importlib.import_module("gwrelay.supervisor")
    command = partial(_worker_command, config, given)
    return lambda: int(supervisor.serve(settings, content, command))


def _worker_command(
    config: str | None,
    given: Mapping[str, str | Sequence[str] | None],
    number: int,
    handover: Handover,
) -> list[str]:
    """Executes this very program as a worker, with all that was given to it."""
    words = ["serve", "--worker", str(number), "--inherited", handover.written()]
    if config is not None:
        words.append(f"--config={config}")
    for flag, texts in _flags(given).items():
        words += [f"--{flag}={text}" for text in texts]
    return [*_program(), *words]


def _program() -> list[str]:
    """As this process was executed, up to the words that are ours."""
    if Path(sys.argv[0]).name == "gwrelay" or sys.argv[0].endswith("gwrelay/__main__.py"):
        before = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]
    else:
        before = ["-m", "gwrelay"]  # some other program has us run
    return [sys.executable, *before]


@gwrelay.command("check-config", cls=SettingsCommand)
@_config_option
@click.option(
    "--effective", is_flag=True, help="Print every setting, as a file, and where it came from."
)
@json_option
def check_config(
    config: str | None, effective: bool, as_json: bool, **given: str | Sequence[str] | None
) -> int:
    """Check the settings that serve would run with.

    Takes the flags, variables and file that serve takes.  Exit status 2 when it would not
    start.
    """
    try:
        loaded = _load(config, given)
        importlib.import_module("gwrelay.outbound").build_security(loaded.settings)
    except ConfigError as error:
        if not as_json:
            raise
        click.echo(_json({"ok": False, "problems": str(error).splitlines()}))
        return USAGE_STATUS
    if as_json:
        click.echo(_json({"ok": True} | (_as_record(loaded) if effective else {})))
    elif effective:
        click.echo(_as_file(loaded), nl=False)
    else:
        click.echo("the configuration is good")
    return 0


@gwrelay.command(short_help="Show the relay at work, on this machine alone.")
@click.option("--messages", type=click.IntRange(min=1), metavar="N", help="Relay this many.")
@json_option
@click.option("--keep", is_flag=True, help="Keep the spool and the logs, and say where.")
def demo(messages: int | None, as_json: bool, keep: bool) -> Callable[[], int]:
    """Relay believable mail on this machine alone, and show what became of it.

    Starts a gateway, a sink and a small DNS server on loopback, on free ports, with a
    temporary spool.  Exit status 0 only when every recipient is accounted for.
    """
    bench = importlib.import_module("gwrelay_bench.demo")
    return lambda: int(bench.run(messages=messages, json=as_json, keep=keep))


class ScenarioGroup(click.Group):
    """Each command is a module of gwrelay_bench that scenarios.NAMES has, loaded when wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(importlib.import_module("gwrelay_bench.scenarios").NAMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in (*self.list_commands(ctx), METERED):
            return None
        module = importlib.import_module(f"gwrelay_bench.{cmd_name}")
        return cast(click.Command, module.command)


@gwrelay.group("bench", cls=ScenarioGroup, short_help="Measure it on this machine.")
def bench_group() -> None:
    """Measure gwrelay on this machine.

    Each of them prints what it measured beside a baseline of the same run and what should be
    reached; a target that is missed is no failure.  With --json the figures are lines of JSON.
    """


gwrelay.add_command(status)
gwrelay.add_command(queue_group)
gwrelay.add_command(explain)
gwrelay.add_command(suspend_group)


@gwrelay.group("spool", short_help="Look into the spool.")
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
    return int(_spool_tools().stat(given_spool(directory), as_json=as_json))


@spool_group.command("verify")
@spool_option
@json_option
def spool_verify(directory: str | None, as_json: bool) -> int:
    """Read every frame, and say what is lost or damaged.

    Names the place, the bytes and frames (at least), the messages of which the damaged bytes
    still tell, those that miss a part of their content, and what earlier starts kept aside.

    Exit status 0 when all is whole, 1 when anything is lost or damaged.
    """
    return int(_spool_tools().verify(given_spool(directory), as_json=as_json))


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
    tools = _spool_tools()
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
    tools = _spool_tools()
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
    return int(_spool_tools().compact(given_spool(directory), share, as_json=as_json))


@gwrelay.group("mx", short_help="Where mail for a domain goes, and which hosts are down.")
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
@_config_option
@json_option
def mx_lookup(
    domain: str, config: str | None, as_json: bool, **given: str | Sequence[str] | None
) -> int:
    """Ask name servers where mail for DOMAIN goes, and say why each host is where it is.

    Works with and without a gateway; one that runs on --spool adds its bad-host marks.  Takes the
    settings of serve that matter here.

    Exit status 1 when there is nowhere to send it to.
    """
    loaded = _load(config, given, spool=".")
    spool_given = loaded.given["spool"].origin != NOT_GIVEN
    asks = spool_given or not loaded.settings.admin.startswith("SPOOL/")
    return int(_mx_tools().lookup(domain, loaded.settings, asks_gateway=asks, as_json=as_json))


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
    return int(_mx_tools().cache(at, domains, as_json=as_json))


@mx_group.command("bad")
@spool_option
@admin_option
@json_option
def mx_bad(directory: str | None, admin: str | None, as_json: bool) -> int:
    """Print which hosts are marked bad, and until when."""
    return int(_mx_tools().bad(given_admin(directory, admin), as_json=as_json))


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
    return int(_mx_tools().flush(given_admin(directory, admin), domains, as_json=as_json))


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
    return int(_mx_tools().mark_bad(at, host, lasts, as_json=as_json))


@mx_group.command("mark-good")
@click.argument("host")
@spool_option
@admin_option
@json_option
def mx_mark_good(host: str, directory: str | None, admin: str | None, as_json: bool) -> int:
    """Forget all marks of HOST, a name or an address, and let its mail go."""
    return int(_mx_tools().mark_good(given_admin(directory, admin), host, as_json=as_json))


def _mx_tools() -> Any:
    return importlib.import_module("gwrelay.mxtools")


def _spool_tools() -> Any:
    return importlib.import_module("gwrelay.spooltools")


@gwrelay.command()
@json_option
def version(as_json: bool) -> None:
    """Print the version."""
    if as_json:
        click.echo(_json({"gwrelay": __version__, "python": platform.python_version()}))
    else:
        click.echo(f"gwrelay {__version__}")


def _load(
    config: str | None,
    given: Mapping[str, str | Sequence[str] | None],
    *,
    content: bytes | None = None,
    spool: str = "",
) -> Loaded:
    """What was given on the command line, in the environment and in the file, as settings.

    `content` is the file's where that was read already; `spool` stands in for one that was not
    given.
    """
    content = _read_file(config) if content is None else content
    file = None if config is None or content is None else (config, content)
    return load(_flags(given), os.environ, file, socket.gethostname(), spool=spool)


def _flags(given: Mapping[str, str | Sequence[str] | None]) -> dict[str, Sequence[str]]:
    """What was given on the command line, by flag."""
    return {
        TABLE[field].flag: [value] if isinstance(value, str) else value
        for field, value in given.items()
        if value is not None and value != ()
    }


def _read_file(config: str | None) -> bytes | None:
    if config is None:
        return None
    try:
        return Path(config).read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        origin = f"--config or {CONFIG_VARIABLE}"
        raise ConfigError(f"{origin}: cannot read {config!r}: {reason}; name a file") from None


def _as_file(loaded: Loaded) -> str:
    """The settings as a TOML file that --config reads back, each with its origin."""
    blocks = []
    for section in SECTIONS:
        lines = [f"# {section}"]
        for setting in TABLE.values():
            if setting.section == section:
                given = loaded.given[setting.flag]
                lines.append(f"{setting.flag} = {_as_written(setting, given)}  # {given.origin}")
        blocks.append("\n".join(lines) + "\n")
    for destination, particular in loaded.destinations.items():
        lines = [f"[{DESTINATION}.{_json(destination)}]"]
        for setting in TABLE.values():
            if setting.flag in particular:
                given = particular[setting.flag]
                lines.append(f"{setting.flag} = {_as_written(setting, given)}  # {given.origin}")
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def _as_written(setting: Setting, given: Given) -> str:
    """The value in TOML.  A JSON string is a TOML one, so long as DEL is escaped too."""
    parts = [_json(part).replace("\x7f", "\\u007f") for part in given.parts]
    return f"[{', '.join(parts)}]" if setting.kind.repeatable else "".join(parts) or '""'


def _as_record(loaded: Loaded) -> dict[str, Any]:
    return {"settings": _records(loaded), "destinations": _destinations(loaded)}


def _records(loaded: Loaded) -> dict[str, dict[str, Any]]:
    """By flag."""
    return {
        setting.flag: _record(setting, getattr(loaded.settings, field), loaded.given[setting.flag])
        for field, setting in TABLE.items()
    }


def _destinations(loaded: Loaded) -> dict[str, dict[str, dict[str, Any]]]:
    """By destination, then by flag: what is particular to it."""
    return {
        destination: {
            setting.flag: _record(
                setting, values[field], loaded.destinations[destination][setting.flag]
            )
            for field, setting in TABLE.items()
            if field in values
        }
        for destination, values in loaded.settings.destinations.items()
    }


def _record(setting: Setting, value: object, given: Given) -> dict[str, Any]:
    """The value as read, with its unit if it has one, as written, and its origin."""
    return {
        "value": value,
        "unit": setting.kind.unit,
        "written": ",".join(given.parts),
        "origin": given.origin,
    }


def _json(value: object) -> str:
    """`value` as JSON; networks, which JSON has no form for, as people write them."""
    return msgspec.json.encode(value, enc_hook=str).decode()
