"""`gwrelay demo`: the gateway relays a believable mix on loopback, and is checked to the byte.

Starts the gateway as its own process with a temporary spool, and in this process a name
server and a sink as the destinations (destinations.py).  First a crowd of small messages,
for the figure of messages/s; then the mix.  accounting.py judges, report.py prints.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from json import dumps
from pathlib import Path

import gevent
from rich.console import Console

from gwrelay_bench.accounting import Problem, account
from gwrelay_bench.carriage import Carriage
from gwrelay_bench.corpus import corpus, cpython_messages
from gwrelay_bench.destinations import (
    CHARACTERS,
    LATE_S,
    REFUSED,
    RULES,
    TABLE,
    NoPort,
    crowd,
    mix,
    open_exchanges,
)
from gwrelay_bench.gateway import Gateway, GatewayDied, flags
from gwrelay_bench.report import Run, figures, print_run
from gwrelay_bench.sink import Sink
from gwrelay_bench.zone import NameServer

MESSAGES = 2000
LOAD_BYTES = 4096
SESSIONS = 20


def run(*, messages: int | None = None, json: bool = False, keep: bool = False) -> int:
    """The whole demo; the exit status.  `messages` is the size of the crowd, not of the mix.

    With `json` one object on standard output, and people are spoken to on standard error.
    The directory with spool, events and log stays when `keep` is set or anything failed.
    """
    console = Console(stderr=json, highlight=False)
    directory = Path(tempfile.mkdtemp(prefix="gwrelay-demo-"))
    try:
        done = _perform(directory, MESSAGES if messages is None else messages, console)
    except KeyboardInterrupt:
        shutil.rmtree(directory)
        raise
    except (GatewayDied, NoPort) as error:
        if json:
            print(dumps({"ok": False, "problems": [str(error)], "kept": str(directory)}))
        else:
            print(f"{error}\nSpool, events and log are in {directory}", file=sys.stderr)
        return 1
    if keep or not done.succeeded:
        done = done._replace(kept=str(directory))
        _save_bodies(directory, done.account.problems)
    else:
        shutil.rmtree(directory)
    if json:
        print(dumps(figures(done)))
    else:
        print_run(done, console, CHARACTERS)
    return 0 if done.succeeded else 1


def _perform(directory: Path, messages: int, console: Console) -> Run:
    """Open the destinations, start the gateway, send, wait, stop, account."""
    started = time.monotonic()
    specimens, left_out = corpus()
    refused = frozenset({REFUSED})
    sink = Sink(RULES, keep_content=True)
    with ExitStack() as stack:
        stack.callback(sink.close)
        exchanges = open_exchanges(sink)
        names = NameServer(TABLE)
        stack.callback(names.close)
        gateway = Gateway(directory, _arguments(names.port, exchanges.port))
        stack.callback(gateway.kill)
        carriage = stack.enter_context(
            Carriage(gateway.await_ready(), gateway.check, sink, console, refused=refused)
        )
        load_s = carriage.carry("throughput", list(crowd(messages, LOAD_BYTES)), SESSIONS)
        gevent.spawn_later(LATE_S, exchanges.open_late)
        carriage.carry("the mix", list(mix(specimens)), SESSIONS)
        status = gateway.stop()
    ending = [f"the gateway ended with status {status} after SIGTERM"] if status else []
    return Run(
        account=account(carriage.sent, sink.arrivals, gateway.events(), refused),
        failures=(*carriage.failures, *ending),
        load_messages=messages,
        load_bytes=LOAD_BYTES,
        load_s=load_s,
        sessions=SESSIONS,
        elapsed_s=time.monotonic() - started,
        material=_material(len(specimens), left_out),
        kept=None,
    )


def _arguments(resolver_port: int, smtp_port: int) -> list[str]:
    """Loopback exchanges are allowed, everything that takes minutes takes seconds, and a disk
    that is nearly full has room enough for a demo."""
    settings = {
        "--listen": "127.0.0.1:0",
        "--hostname": "gw.demo.example",
        "--resolver": f"127.0.0.1:{resolver_port}",
        "--smtp-port": str(smtp_port),
        "--deny-host": "none",
        "--min-free-space": "0",
        "--retry": "1s,2s,4s",
        "--mx-bad-time": "1s..5s",
    }
    return flags(settings)


def _material(specimens: int, left_out: list[tuple[str, str]]) -> str:
    """Where the mix came from, and what SMTP does not allow to be part of it."""
    found = len(cpython_messages())
    origin = f"{found} of CPython's mail corpus" if found else "CPython's mail corpus not installed"
    names = "".join(f"; left out {name}: {reason}" for name, reason in left_out)
    return f"{specimens} contents, {origin}{names}"


def _save_bodies(directory: Path, problems: Iterable[Problem]) -> None:
    """Both sides of each altered body, to be compared at leisure."""
    altered = [problem for problem in problems if problem.expected is not None]
    for number, problem in enumerate(altered):
        stem = directory / f"altered-{number}"
        stem.with_suffix(".sent").write_bytes(problem.expected or b"")
        stem.with_suffix(".arrived").write_bytes(problem.arrived or b"")
