"""The command line: words in, settings and an exit status out.

Options, their help and their defaults come from config.TABLE.  Never imports gevent, and
nothing that takes long: a command loads what it needs when it runs.
"""

import importlib
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import click

from gwrelay import __version__
from gwrelay.commands.effective import as_file, as_record, to_json
from gwrelay.commands.mxcommands import mx_group
from gwrelay.commands.options import json_option
from gwrelay.commands.queuecommands import explain, queue_group, status
from gwrelay.commands.settingsoptions import (
    SettingsCommand,
    as_flags,
    config_option,
    load_settings,
    read_settings_file,
)
from gwrelay.commands.spoolcommands import spool_group
from gwrelay.commands.suspendcommands import suspend_group
from gwrelay.errors import ConfigError, GatewayError
from gwrelay.kinds import DURATION, TIMEOUT, Kind, size
from gwrelay.processes.handover import Handover, read_handover

USAGE_STATUS = 2
#: As a shell says of SIGINT.
INTERRUPTED_STATUS = 130
#: Seconds for three rounds of the first setting, on a slow machine.
_SHORTEST_TUNING_S = 20
_LOAD_SIZE = size("100", "50M")
#: What the benches run instead of `serve`; of no use to people, and not listed.
METERED = "metered"


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
@config_option
@click.option("--worker", type=click.IntRange(min=0), hidden=True)
@click.option("--inherited", hidden=True)
def serve(
    config: str | None,
    worker: int | None,
    inherited: str | None,
    **given: str | Sequence[str] | None,
) -> Callable[[], int]:
    """Run the relay.

    Runs until SIGTERM or SIGINT; SIGHUP reopens the log and the events, and reads the certificate
    for clients again.  To begin with:

    gwrelay serve --spool DIR --listen 127.0.0.1:2525 --hostname gw.example.com
    """
    if worker is not None:
        handover = None if inherited is None else read_handover(inherited)
        content = None if handover is None else handover.config_content
        settings = load_settings(config, given, content=content).settings
        service = importlib.import_module("gwrelay.service")
        return lambda: int(service.serve(settings, worker, handover))
    content = read_settings_file(config)
    settings = load_settings(config, given, content=content).settings
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
    for flag, texts in as_flags(given).items():
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
@config_option
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
        loaded = load_settings(config, given)
        importlib.import_module("gwrelay.outbound").build_security(loaded.settings)
        importlib.import_module("gwrelay.certificate").read_certificate(loaded.settings)
    except ConfigError as error:
        if not as_json:
            raise
        click.echo(to_json({"ok": False, "problems": str(error).splitlines()}))
        return USAGE_STATUS
    if as_json:
        click.echo(to_json({"ok": True} | (as_record(loaded) if effective else {})))
    elif effective:
        click.echo(as_file(loaded), nl=False)
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


@gwrelay.command(short_help="Find the flags for this machine.")
@click.option(
    "--time",
    "time_text",
    default="2m",
    show_default=True,
    metavar="DURATION",
    help="Take no longer than this.",
)
@click.option(
    "--dir",
    "parent",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
    help="Where the spool will be: its disk is tried.  [the system's temporary directory]",
)
@click.option(
    "--size", "size_text", default="4K", show_default=True, metavar="SIZE", help="Of each message."
)
@click.option(
    "--sessions",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="That hand messages in.",
)
@click.option(
    "--delay",
    default="10ms",
    show_default=True,
    metavar="DURATION",
    help="What a next hop takes for each reply, where it matters.",
)
@json_option
def tune(
    time_text: str, parent: Path | None, size_text: str, sessions: int, delay: str, as_json: bool
) -> Callable[[], int]:
    """Try settings on this machine, and print the flags to use.

    Workers, sessions to a site, the size of the log's files and the memory for content: one
    after another, each value in turns with the one that it would replace, with load and sink
    on this machine too.  Ctrl-C prints what is known so far.

    Where a next hop is somebody else's, it says how many sessions it takes: whatever --delay
    makes of --site-concurrency is for one of yours.
    """
    bench = importlib.import_module("gwrelay_bench.tune")
    time_s = _value("--time", time_text, TIMEOUT)
    if time_s < _SHORTEST_TUNING_S:
        raise ConfigError(
            f"--time: {time_text!r} is too short to tell anything; write {_SHORTEST_TUNING_S}s or"
            " more, like 2m"
        )
    job = bench.Job(
        time_s, _value("--size", size_text, _LOAD_SIZE), sessions,
        _value("--delay", delay, DURATION),
    )  # fmt: skip
    return lambda: int(bench.tune(parent, job, as_json=as_json))


def _value(flag: str, text: str, kind: Kind) -> Any:
    try:
        return kind.read(text)
    except ValueError as error:
        raise ConfigError(f"{flag}: {text!r} {error}; {kind.right}") from None


class ScenarioGroup(click.Group):
    """Each command is a module of gwrelay_bench that scenarios.py names, loaded when wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        known = importlib.import_module("gwrelay_bench.scenarios")
        return [*known.NAMES, *known.TOOLS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in (*self.list_commands(ctx), METERED):
            return None
        tools = importlib.import_module("gwrelay_bench.scenarios").TOOLS
        module = importlib.import_module(f"gwrelay_bench.{tools.get(cmd_name, cmd_name)}")
        return cast(click.Command, module.command)


@gwrelay.group("bench", cls=ScenarioGroup, short_help="Measure it on this machine.")
def bench_group() -> None:
    """Measure gwrelay on this machine.

    Each of them prints what it measured beside a baseline of the same run and what should be
    reached; a target that is missed is no failure.  With --json the figures are lines of JSON.
    The last four are tools: a source, a sink and a name server for loads of your own, and pictures.
    """


gwrelay.add_command(status)
gwrelay.add_command(queue_group)
gwrelay.add_command(explain)
gwrelay.add_command(suspend_group)
gwrelay.add_command(spool_group)
gwrelay.add_command(mx_group)


@gwrelay.command()
@json_option
def version(as_json: bool) -> None:
    """Print the version."""
    if as_json:
        click.echo(to_json({"gwrelay": __version__, "python": platform.python_version()}))
    else:
        click.echo(f"gwrelay {__version__}")
