"""`gwrelay bench sink`: a server that takes mail of the user's own gateway, and says what came.

Its processes are sinkworker.py's; here its options are read, and what they counted is told.
"""

import shutil
import signal
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from json import dumps, loads
from pathlib import Path
from typing import Any, NamedTuple

import click
import gevent
from gevent.event import Event
from rich.console import Console

from gwrelay.errors import ConfigError
from gwrelay.notation import read_address, read_duration
from gwrelay_bench.bars import ticker
from gwrelay_bench.certificate import make_certificate
from gwrelay_bench.child import Client
from gwrelay_bench.ledger import (
    AGAIN,
    ARRIVED,
    BYTES,
    ENCRYPTED,
    FAULTS,
    LISTENS,
    OPEN,
    SESSIONS,
    SPOILT,
    Ledger,
)
from gwrelay_bench.measure import Result, emit
from gwrelay_bench.options import (
    RIGHT_ADDRESS,
    RIGHT_DELAY,
    RIGHT_FAULT,
    Delay,
    read_delay,
    read_fault,
    read_with,
)
from gwrelay_bench.order import Order
from gwrelay_bench.scenario import BenchFailed
from gwrelay_bench.table import print_results
from gwrelay_bench.tally import merged

_POLL_S, _TELL_EVERY_S, _START_S = 0.05, 0.5, 15.0
_OFF, _STARTTLS, _IMPLICIT = "off", "starttls", "implicit"
#: Of bodies, so many are named in JSON.
_NAMED = 20
_RIGHT_GREYLIST = "write DOMAIN:DURATION, like a.example:1m"


class _Process(NamedTuple):
    client: Client
    ledger: Ledger
    report: Path


@click.command("sink", short_help="Take mail, and count what came.")
@click.option(
    "--listen", "addresses", multiple=True, default=["127.0.0.1"], show_default=True,
    metavar="ADDR", callback=read_with(read_address, RIGHT_ADDRESS), help="May be repeated.",
)  # fmt: skip
@click.option(
    "--port", type=click.IntRange(0, 65535), default=2626, show_default=True,
    help="0: any that is free.",
)  # fmt: skip
@click.option(
    "--processes", type=click.IntRange(1, 256), default=1, show_default=True,
    help="That share the port.",
)  # fmt: skip
@click.option(
    "--delay", "delays", multiple=True, metavar="COMMAND[@DOMAIN]:DURATION",
    callback=read_with(read_delay, RIGHT_DELAY),
    help="Until the reply, like rcpt:100ms or dot@slow.example:2s; repeat it for more.",
)  # fmt: skip
@click.option(
    "--fault", "faults", multiple=True, metavar="COMMAND[@DOMAIN]:REPLY[:ODDS]",
    callback=read_with(read_fault, RIGHT_FAULT),
    help="Instead of the reply, so often, like rcpt:450:0.1 or dot@gone.example:'554 5.7.1 no'."
    "  drop hangs up; dot:taken takes the message and hangs up.  The first that applies happens.",
)  # fmt: skip
@click.option(
    "--greylist", multiple=True, metavar="DOMAIN:DURATION",
    callback=read_with(lambda text: _read_greylist(text), _RIGHT_GREYLIST),
    help="Answer 451 to what is new for so long.",
)  # fmt: skip
@click.option(
    "--tls", type=click.Choice([_OFF, _STARTTLS, _IMPLICIT]), default=_OFF, show_default=True
)  # fmt: skip
@click.option(
    "--certificate", type=click.Path(exists=True, dir_okay=False), metavar="FILE",
    help="With its key in it, too.  [one is made that nobody trusts]",
)  # fmt: skip
@click.option(
    "--pipelining", type=click.Choice(["yes", "no"]), default="yes", show_default=True,
    help="Offer it.",
)  # fmt: skip
@click.option(
    "--records", type=click.Path(dir_okay=False, writable=True), metavar="FILE",
    help="Append a line of JSON here for each message.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON in the end.")
def command(
    addresses: tuple[str, ...], port: int, processes: int, delays: tuple[Delay, ...],
    faults: tuple[Any, ...], greylist: tuple[tuple[str, float], ...], tls: str,
    certificate: str | None, pipelining: str, records: str | None, as_json: bool,
) -> Callable[[], int]:  # fmt: skip
    """Take mail of anybody until Ctrl-C or SIGTERM, and say what came.

    COMMAND is connect, ehlo, mail, rcpt, data or dot (the end of the content).  A message is known
    again by its Message-ID, and came again when it did so for the same recipient; it is spoilt when
    its body is not what gwrelay bench source says that it is.
    """
    if certificate and tls == _OFF:
        raise click.BadParameter("is of no use without --tls", param_hint="--certificate")
    order = Order(
        addresses, port, certificate or "", tls == _IMPLICIT,
        {one.command: one.delay_s for one in delays if not one.domain},
        tuple((one.command, one.domain, one.delay_s) for one in delays if one.domain),
        faults, dict(greylist), pipelining == "yes",
        str(Path(records).resolve()) if records else "",
    )  # fmt: skip
    return lambda: _run(order, processes, tls, as_json=as_json)


def _run(order: Order, processes: int, tls: str, *, as_json: bool) -> int:
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, stop.set)
    told = Console(stderr=True, highlight=False)
    directory = Path(tempfile.mkdtemp(prefix="gwrelay-sink-"))
    try:
        with ExitStack() as reserved:
            order = order._replace(port=_reserve(order, reserved))
            if tls != _OFF and not order.certificate:
                order = order._replace(certificate=make_certificate(directory))
            with _running(order, processes, directory) as running:
                where = ", ".join(f"{address}:{order.port}" for address in order.addresses)
                told.print(f"listening on {where}", soft_wrap=True)
                _watch(running, stop, told)
            result = _result(order, running, tls)
    finally:
        shutil.rmtree(directory)
    if as_json:
        emit(result)
    print_results([result], told if as_json else Console(highlight=False))
    return 0


@contextmanager
def _running(order: Order, processes: int, directory: Path) -> Iterator[list[_Process]]:
    """They listen inside, and have written their reports behind it."""
    running: list[_Process] = []
    try:
        for number in range(processes):
            ledger, report = Ledger(directory / f"ledger-{number}", 0), directory / f"r-{number}"
            client = Client(
                "gwrelay_bench.sinkworker", str(ledger.path), str(report),
                heard=dumps(order._asdict()).encode(),
            )  # fmt: skip
            running.append(_Process(client, ledger, report))
        deadline = time.monotonic() + _START_S
        while not all(one.ledger.counters[LISTENS] for one in running):
            if any(one.client.is_done for one in running) or time.monotonic() > deadline:
                raise BenchFailed("a process of the sink did not start")
            time.sleep(_POLL_S)
        yield running
        for one in running:
            one.client.terminate()
    finally:
        for one in running:
            one.client.end()


def _watch(running: Sequence[_Process], stop: Event, told: Console) -> None:
    """Until `stop`."""
    before, looked_at = 0, time.monotonic()
    with ticker(told) as line:
        task = line.add_task("")
        while not stop.wait(_TELL_EVERY_S):
            if any(one.client.is_done for one in running):
                raise BenchFailed("a process of the sink has ended")
            counters, now = _counters(running), time.monotonic()
            rate = (counters[ARRIVED] - before) / (now - looked_at)
            before, looked_at = counters[ARRIVED], now
            line.update(task, description=_shown(counters, rate), refresh=True)


def _shown(counters: Sequence[int], rate_per_s: float) -> str:
    return (
        f"{counters[ARRIVED]:,} messages, {rate_per_s:,.0f}/s, {counters[OPEN]:,} sessions,"
        f" {counters[AGAIN]:,} again, {counters[SPOILT]:,} spoilt, {counters[FAULTS]:,} faults"
    )


def _counters(running: Sequence[_Process]) -> list[int]:
    """Of all; what came again at another process is not among them."""
    return list(map(sum, zip(*(one.ledger.counters for one in running), strict=True)))


def _result(order: Order, running: Sequence[_Process], tls: str) -> Result:
    counters = _counters(running)
    reports = [loads(one.report.read_text()) for one in running]
    distinct, again, contents = merged(reports)
    faults: Counter[str] = Counter()
    for one in reports:
        faults.update(one["faults"])
    began = [one["first_at"] for one in reports if one["first_at"]]
    took_s = max(one["last_at"] for one in reports) - min(began) if began else 0.0
    figures = {
        "messages": counters[ARRIVED],
        "per_s": round((counters[ARRIVED] - 1) / took_s, 1) if took_s else None,
        "seconds": round(took_s, 3),
        "recipients": distinct,
        "again": again,
        "spoilt": counters[SPOILT],
        "bytes": counters[BYTES],
        "bodies": len(contents),
        "sessions": counters[SESSIONS],
        "sessions_under_tls": counters[ENCRYPTED],
        "faults": dict(sorted(faults.items())),
        "most_bodies": [{"sha256": one, "messages": n} for one, n in contents.most_common(_NAMED)],
    }
    settings = {
        "listen": ",".join(order.addresses),
        "port": order.port,
        "processes": len(running),
        "tls": tls,
        "pipelining": order.pipelining,
    }
    return Result("sink", settings, figures)


def _reserve(order: Order, reserved: ExitStack) -> int:
    """The port, which is ours until `reserved` is closed, and nobody else's now.  Raises
    ConfigError."""
    port = order.port
    for address in order.addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            # Without the option that shares it: it would share with another sink, too.
            with socket.create_server((address, port), family=family) as probe:
                port = int(probe.getsockname()[1])
            held = reserved.enter_context(socket.socket(family))
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            held.bind((address, port))
        except OSError as error:
            raise ConfigError(f"--listen: {address} port {port}: {error.strerror}") from None
    return port


def _read_greylist(text: str) -> tuple[str, float]:
    domain, _, duration = text.rpartition(":")
    if not domain:
        raise ValueError("names no domain")
    return domain.lower(), read_duration(duration)
