"""One start of a gateway on a spool that may be full, watched from outside and from within."""

import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from json import loads
from pathlib import Path
from typing import Any, NamedTuple

import gevent
from gevent.event import Event

from gwrelay_bench.figures import latency
from gwrelay_bench.gateway import Gateway
from gwrelay_bench.machine import usage
from gwrelay_bench.relays import counted_at
from gwrelay_bench.scenario import BenchFailed
from gwrelay_bench.sink import Sink
from gwrelay_bench.sinksession import Arrival
from gwrelay_bench.source import Source, text_content
from gwrelay_bench.submission import Receipt, Submission

#: Who sends what the client hands in, so that the sink can tell it from what waited.
CLIENT = "client@source.example"
_WAITING = re.compile(r"ready: .*; (\d+) deliveries waiting")
_LOADED = re.compile(r"loaded \d+ messages")
_PROBE_EVERY_S = 0.1
_POLL_S = 0.02


class Start(NamedTuple):
    """Seconds are since the process was started; None for what did not come in time."""

    ready_s: float
    loaded_s: float
    first_accept_s: float | None
    first_delivery_s: float | None
    #: Of a message that waited in the spool.
    first_waiting_delivery_s: float | None
    #: When all of this had happened.
    resident_bytes: int
    peak_bytes: int
    cpu_s: float
    syncs: int
    #: Of what the client handed in meanwhile.
    dot_to_250_ms: dict[str, float] | None
    #: What the loop's meter and the collector's said then, in milliseconds.
    stall_ms: dict[str, float]
    collector_ms: dict[str, float]
    #: Messages that had waited and were delivered.
    delivered: int


def start(
    directory: Path,
    arguments: list[str],
    sink: Sink,
    *,
    domain: str,
    waiting: int,
    delivers_waiting: bool,
    limit_s: float,
) -> Start:
    """Start it, wait until it has loaded `waiting` deliveries and served, and stop it.

    The client's messages go to `domain`.  Raises GatewayDied, or BenchFailed after `limit_s`.
    """
    figures = directory / "figures.jsonl"
    figures.unlink(missing_ok=True)
    sink.arrivals.clear()
    began = time.time()
    gateway = Gateway(directory, arguments, ("bench", "metered", "--figures", str(figures)))
    try:
        address = gateway.await_ready(limit_s)
        ready_s = time.time() - began
        with _client(address, domain) as receipts:
            _await(lambda: _is_loaded(gateway.log(), waiting), gateway, limit_s)
            loaded_s = time.time() - began
            wanted = {True, False} if delivers_waiting else {True}
            _await(lambda: {_is_clients(a) for a in sink.arrivals} >= wanted, gateway, limit_s)
            used = usage(gateway.pid)
            syncs = counted_at(str(directory / "spool" / "admin.sock"))["syncs"]
            gateway.signal(signal.SIGUSR1)
            _await(lambda: _lines(figures), gateway, limit_s)
        gateway.stop(limit_s)
    finally:
        gateway.kill()
    measured = _lines(figures)[0]
    waited = [a.at for a in sink.arrivals if not _is_clients(a)]
    return Start(
        ready_s,
        loaded_s,
        _first([receipt.answered_at for receipt in receipts], began),
        _first([a.at for a in sink.arrivals if _is_clients(a)], began),
        _first(waited, began),
        *used,
        syncs,
        latency([receipt.answered_at - receipt.sent_at for receipt in receipts]),
        measured["stall_ms"],
        measured["collector_ms"],
        len(waited),
    )


@contextmanager
def _client(address: tuple[str, int], domain: str) -> Iterator[list[Receipt]]:
    """Somebody who hands in a message every now and then; BenchFailed if one is refused."""
    leaving, receipts = Event(), list[Receipt]()
    source = Source(*address, sessions=1)
    client = gevent.spawn(source.run, _probes(domain, leaving), receipts.append)
    try:
        yield receipts
    finally:
        leaving.set()
        client.get()
    refused = [receipt.text for receipt in receipts if not receipt.accepted]
    if refused:
        raise BenchFailed(f"the gateway refused mail: {refused[0]}")


def _is_clients(arrival: Arrival) -> bool:
    return arrival.reverse_path == CLIENT


def _probes(domain: str, leaving: Event) -> Iterator[Submission]:
    """A message every now and then until `leaving`."""
    content = text_content(1000)
    while not leaving.is_set():
        yield Submission(CLIENT, (f"r@{domain}",), content)
        leaving.wait(_PROBE_EVERY_S)


def _is_loaded(log: str, waiting: int) -> bool:
    """It says so when it has loaded beside its work; else it was done when it was ready."""
    ready = _WAITING.search(log)
    return bool(_LOADED.search(log)) or (ready is not None and int(ready[1]) >= waiting)


def _await(condition: Callable[[], object], gateway: Gateway, limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        gateway.check()
        if time.monotonic() > deadline:
            end = "\n".join(gateway.log().splitlines()[-15:])
            raise BenchFailed(f"not within {limit_s:g} s; the end of the gateway's log:\n{end}")
        gevent.sleep(_POLL_S)


def _lines(path: Path) -> list[dict[str, Any]]:
    """Those that are whole."""
    if not path.exists():
        return []
    return [loads(line) for line in path.read_text().splitlines(True) if line.endswith("\n")]


def _first(times: list[float], began: float) -> float | None:
    return min(times) - began if times else None
