"""`gwrelay bench source`: hands mail in at a server of the user's own, and says what it answered.

The work is mixsource.py's, a process of its own; here its options are read and its ledger told.
"""

import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from json import dumps
from pathlib import Path
from typing import Any, NamedTuple

import click
from rich.console import Console

from gwrelay.errors import ConfigError
from gwrelay.notation import read_endpoint
from gwrelay_bench.bars import progress
from gwrelay_bench.child import Client
from gwrelay_bench.figures import latency
from gwrelay_bench.ledger import ACCEPTED, ANSWERED, Ledger
from gwrelay_bench.load import Load
from gwrelay_bench.machine import raise_file_limit
from gwrelay_bench.measure import Result, emit
from gwrelay_bench.mix import (
    RIGHT_DOMAINS,
    RIGHT_SIZES,
    Mix,
    read_domains,
    read_sizes,
)
from gwrelay_bench.options import read_with
from gwrelay_bench.scenario import BenchFailed
from gwrelay_bench.table import print_results

_POLL_S, _START_S = 0.1, 5.0
_INTERRUPTED_STATUS = 130
_OFF, _STARTTLS, _IMPLICIT = "off", "starttls", "implicit"


class Sent(NamedTuple):
    """What became of it; `ended_at` is Unix seconds."""

    ledger: Ledger
    #: As mixsource.py tells it.
    said: dict[str, Any]
    ended_at: float
    interrupted: bool


@click.command("source", short_help="Hand mail in, and count the answers.")
@click.option(
    "--to", "server", required=True, metavar="HOST:PORT",
    callback=read_with(read_endpoint, "write HOST:PORT, like 127.0.0.1:2525"),
    help="Where.",
)  # fmt: skip
@click.option(
    "--messages", type=click.IntRange(1, 10_000_000), default=10_000, show_default=True
)  # fmt: skip
@click.option(
    "--sessions", type=click.IntRange(1, 100_000), default=20, show_default=True,
    help="At a time.",
)  # fmt: skip
@click.option(
    "--rate", type=click.FloatRange(0, min_open=True), metavar="N",
    help="So many a second by the clock, whatever became of those before.  [as fast as they are"
    " answered]",
)  # fmt: skip
@click.option(
    "--size", "sizes", default="4K", show_default=True, metavar="SIZE[:WEIGHT],...",
    callback=read_with(read_sizes, RIGHT_SIZES), help="Of a message, like 2K:50,20K:40,1M:10.",
)  # fmt: skip
@click.option(
    "--domains", default="sink.example", show_default=True, metavar="N|DOMAIN[:WEIGHT],...",
    callback=read_with(read_domains, RIGHT_DOMAINS),
    help="Of recipients, like example.com:3,example.net:1; N is d0.example and so on.",
)  # fmt: skip
@click.option(
    "--recipients", type=click.IntRange(1, 10_000), default=1, show_default=True,
    help="Of each message.",
)  # fmt: skip
@click.option(
    "--per-connection", type=click.IntRange(0), default=0, show_default=True,
    help="Messages for each connection; 0: they are kept.",
)  # fmt: skip
@click.option(
    "--tls", type=click.Choice([_OFF, _STARTTLS, _IMPLICIT]), default=_OFF, show_default=True,
    help="Of whoever it may be: certificates are not looked at.",
)  # fmt: skip
@click.option(
    "--auth", default="", metavar="USER:PASSWORD", callback=lambda *given: _login(given[2]),
    help="Log in (PLAIN).",
)  # fmt: skip
@click.option(
    "--pipelining", type=click.Choice(["yes", "no"]), default="yes", show_default=True,
    help="Where it is offered.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON.")
def command(
    server: tuple[str, int], messages: int, sessions: int, rate: float | None, per_connection: int,
    tls: str, auth: str, pipelining: str, as_json: bool, **mixed: Any,
) -> Callable[[], int]:  # fmt: skip
    """Hand messages in at HOST:PORT, and count the answers by their codes.

    Each has a number in its Message-ID and a digest of its body in X-Load-Body, by which
    gwrelay bench sink knows what arrived, what came again and what was spoilt.

    source_cores is what the source itself took of one core, the most that it can have: far below
    1.0 it is not what limits.  source_cpu_s_per_1000 is what 1,000 messages cost it.

    Exit status 0 when all were accepted.  Ctrl-C prints what is known so far.
    """
    load = Load(
        messages, 0, sessions, per_connection, rate or 0.0, encrypts=tls == _STARTTLS,
        encrypts_at_once=tls == _IMPLICIT, pipelines=pipelining == "yes",
    )  # fmt: skip
    return lambda: _run(server, load, Mix(**mixed), auth, as_json=as_json)


def _run(server: tuple[str, int], load: Load, mix: Mix, auth: str, *, as_json: bool) -> int:
    raise_file_limit()
    console = Console(stderr=as_json, highlight=False)
    directory = Path(tempfile.mkdtemp(prefix="gwrelay-source-"))
    try:
        ledger = Ledger(directory / "ledger", load.messages)
        address = await_listener(_resolved(server))
        sent = _send(address, load, mix, auth, ledger, console)
        result = Result("source", _settings(server, load, mix, auth), _figures(sent, load))
    finally:
        shutil.rmtree(directory)
    if as_json:
        emit(result)
    print_results([result], console)
    for text in sent.said["said"]:
        console.print(text, markup=False, style="red")
    if sent.interrupted:
        console.print("Interrupted; this is known so far.")
        return _INTERRUPTED_STATUS
    return 0 if ledger.counters[ACCEPTED] == load.messages else 1


def await_listener(addresses: Sequence[tuple[str, int]]) -> tuple[str, int]:
    """The first of them where somebody listens: one that starts at the same time needs a moment.
    Raises BenchFailed."""
    deadline = time.monotonic() + _START_S
    while True:
        for address in addresses:
            try:
                socket.create_connection(address, _START_S).close()
            except OSError as error:
                reason = error.strerror or error
            else:
                return address
        if time.monotonic() > deadline:
            where = ", ".join("{}:{}".format(*address) for address in addresses)
            raise BenchFailed(f"nobody takes mail at {where}: {reason}")
        time.sleep(_POLL_S)


def _send(
    address: tuple[str, int], load: Load, mix: Mix, auth: str, ledger: Ledger, console: Console
) -> Sent:
    words = {"load": load._asdict(), "mix": mix._asdict(), "auth": auth}
    where = (address[0], str(address[1]), str(ledger.path))
    # By standard input: command lines are everybody's to read.
    client = Client("gwrelay_bench.mixsource", *where, heard=dumps(words).encode())
    interrupted = False
    try:
        with progress(console) as bar:
            task = bar.add_task("source", total=load.messages)
            try:
                while not client.is_done:
                    bar.update(task, completed=ledger.counters[ANSWERED], refresh=True)
                    time.sleep(_POLL_S)
            except KeyboardInterrupt:
                interrupted = True
                client.terminate()
        return Sent(ledger, client.said(), time.time(), interrupted)
    finally:
        client.end()


def _figures(sent: Sent, load: Load) -> dict[str, Any]:
    ledger, said = sent.ledger, sent.said
    taken = [number for number, at in enumerate(ledger.answered_at) if at]
    ended_at = sent.ended_at if sent.interrupted else max(ledger.answered_at, default=0.0)
    took_s = max(ended_at or sent.ended_at, ledger.began_at) - ledger.began_at
    found: dict[str, Any] = {
        "accepted": ledger.counters[ACCEPTED],
        "accepted_per_s": round(ledger.counters[ACCEPTED] / took_s, 1) if took_s else None,
        "seconds": round(took_s, 3),
        "answers": dict(sorted(said["messages"].items())),
        "rcpt_answers": dict(sorted(said["recipients"].items())),
        "sessions_lost": said["lost"],
        "dot_to_250_ms": _between(ledger.sent_at, ledger.answered_at, taken),
        # Near 1.0 it is this source, a process, that limits the rate.
        "source_cores": round(said["cpu_s"] / took_s, 3) if took_s else None,
        "source_cpu_s_per_1000": round(1000 * said["cpu_s"] / len(taken), 4) if taken else None,
        "refusals": said["said"],
    }
    if load.rate_per_s:
        due_at = [load.due_at(number, ledger.began_at) for number in range(load.messages)]
        found["due_to_dot_ms"] = _between(due_at, ledger.sent_at, taken)
    return found


def _between(starts: Any, ends: Any, numbers: list[int]) -> dict[str, float] | None:
    return latency([max(0.0, ends[number] - starts[number]) for number in numbers])


def _settings(server: tuple[str, int], load: Load, mix: Mix, auth: str) -> dict[str, Any]:
    tls = _IMPLICIT if load.encrypts_at_once else _STARTTLS if load.encrypts else _OFF
    return {
        "to": "{}:{}".format(*server),
        "messages": load.messages,
        "sizes": dict(mix.sizes),
        "domains": len(mix.domains),
        "recipients": mix.recipients,
        "sessions": load.sessions,
        "messages_per_connection": load.per_connection or "all",
        "rate_per_s": load.rate_per_s or "as answered",
        "tls": tls,
        "auth": bool(auth),
        "pipelining": load.pipelines,
    }


def _resolved(server: tuple[str, int]) -> list[tuple[str, int]]:
    """Its addresses."""
    try:
        found = socket.getaddrinfo(*server, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(f"--to: {server[0]!r} has no address: {error.strerror}") from None
    return [(str(one[4][0]), server[1]) for one in found]


def _login(text: str) -> str:
    if text and not all(text.partition(":")[::2]):
        raise click.BadParameter(f"{text!r} lacks a part; write USER:PASSWORD")
    return text
