"""`gwrelay bench storm`: what 100,000 messages that fail at once cost another sender.

A live sender's messages for hosts that are well pass an empty gateway: the baseline.  Then another
one starts on a spool full of mail for a host that answers 550 to every recipient, and each causes
a report, all of them for one domain.  Latency is from the 250 for a message to its final dot at
the sink, as long as reports arrive; a visitor's is that of live mail for the very host that takes
the reports.  Each message that failed is accounted for by one report, arrived or in the spool.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from json import loads
from pathlib import Path
from typing import Any, NamedTuple

import click
import gevent

from gwrelay.message.envelope import Envelope, Recipient
from gwrelay_bench.figures import latency_from
from gwrelay_bench.filling import fill_with
from gwrelay_bench.gateway import Gateway, among_ours, flags
from gwrelay_bench.halves import Half, Halves
from gwrelay_bench.machine import raise_file_limit, usage
from gwrelay_bench.measure import Result, Target
from gwrelay_bench.scenario import Bench, BenchFailed, Size, as_module, scenario
from gwrelay_bench.sender import Errand, SenderDied
from gwrelay_bench.sinksession import Arrival
from gwrelay_bench.spooling import waiting_in
from gwrelay_bench.stormhosts import REFUSES, RETURNS, WELL, Hosts

#: What the storm may make of the live sender's latency: so many times what it was, and so many
#: milliseconds in any case.
_SLOWER, _ALWAYS_MS = 1.5, 300.0
_LIVE_BYTES = 4096
#: They send by the clock: while an answer is late, the next message takes another session.
_LIVE_SESSIONS = 5
#: For one message of a visitor, so many of the live sender's.
_VISITS_OF = 5
#: Seconds without a report after which the rest is called missing.
_PATIENCE_S = 15.0
_POLL_S = 0.1
#: Of what is wrong, so many are named.
_NAMED = 10


@click.command("storm")
@click.option(
    "--messages", default=100_000, show_default=True, type=click.IntRange(min=1),
    help="That fail, each of a reverse-path of its own.",
)  # fmt: skip
@click.option("--size", default="4K", show_default=True, type=Size(), help="Of each of these.")
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True,
    help="That the live sender sends, without the storm and again with it.",
)  # fmt: skip
@click.option(
    "--interval", type=click.FloatRange(min=0, min_open=True), default=0.05, show_default=True,
    help="Seconds between two of its messages.",
)  # fmt: skip
@click.option(
    "--returns-delay", type=click.FloatRange(min=0), default=0.0, show_default=True,
    help="Seconds that the host which takes the reports needs for each reply.",
)  # fmt: skip
@click.option(
    "--limit", default=600.0, show_default=True,
    help="Seconds after which the storm is stopped, wherever it is.",
)  # fmt: skip
@scenario
def command(
    bench: Bench,
    messages: int,
    size: int,
    seconds: float,
    interval: float,
    returns_delay: float,
    limit: float,
) -> None:
    """100,000 messages fail at once: the latency of another sender's mail, and the reports."""
    raise_file_limit()
    settings = {
        "messages": messages,
        "bytes": size,
        "seconds": seconds,
        "interval_s": interval,
        "returns_delay_s": returns_delay,
        "cores_shared_by": "the gateway (one process), senders, sinks",
    }
    count = max(1, round(seconds / interval))
    live = Errand(
        "live", "live@source.example", WELL, count, _LIVE_BYTES, _LIVE_SESSIONS, interval
    )  # fmt: skip
    visitor = Errand(
        "visitor", "visitor@other.example", (RETURNS,), -(-count // _VISITS_OF), _LIVE_BYTES,
        _LIVE_SESSIONS, interval * _VISITS_OF,
    )  # fmt: skip
    places = bench.directory / "calm", bench.directory / "storm"
    with bench.steps("filling", messages) as advance:
        fill_with(
            places[1] / "spool" / "worker-0", _failing(messages), size_bytes=size, advance=advance
        )
    try:
        with Hosts(returns_delay) as hosts:
            calm = _run(bench, places[0], hosts, "live mail alone", live, visitor, 0, limit)
            errands = live._replace(name="beside"), visitor._replace(name="guest")
            rough = _run(
                bench, places[1], hosts, "live mail in the storm", *errands, messages, limit
            )
    except SenderDied as error:
        raise BenchFailed(str(error)) from error
    found = settled(messages, hosts.arrivals_at_returns, waiting_in(places[1] / "spool"))
    if found.wrong:
        raise BenchFailed(f"{len(found.wrong)} are wrong: {'; '.join(found.wrong[:_NAMED])}")
    arrivals = [*hosts.arrivals_at_well, *hosts.arrivals_at_returns]
    bench.tell(result(settings, calm, rough, found, arrivals))


class Phase(NamedTuple):
    """One gateway, from its start to its end."""

    #: Of the live sender, and as its `campaign` of the visitor.
    half: Half
    #: Unix seconds: when it was ready, and when the last report had arrived.
    began_at: float
    ended_at: float
    #: Of the gateway, in all of it.
    cpu_s: float
    #: Of its loop, as Meter.stalls().
    stall_ms: Mapping[str, float]
    #: How long the garbage collector stopped it: at most, and in all.
    collector_ms: Mapping[str, float]


class Settled(NamedTuple):
    """What became of the messages that were to fail."""

    #: They have.
    failed: int
    #: Reports that arrived: of how many messages, and more than once.
    arrived: int
    again: int
    #: Reasons not to believe in the figures.
    wrong: Sequence[str]


def settled(
    messages: int, arrivals: Iterable[Arrival], waiting: Iterable[Mapping[str, Any]]
) -> Settled:
    """`arrivals` are those at the host that takes the reports, `waiting` the envelopes in the
    spool, once the gateway has ended.  Each message waits itself, or its one report has arrived,
    or waits."""
    unfailed = set[str]()
    reports = Counter[str]()
    for envelope in waiting:
        if envelope["reverse_path"]:
            unfailed.add(envelope["reverse_path"])
        else:
            reports.update(recipient["address"] for recipient in envelope["recipients"])
    arrived = Counter(r for one in arrivals if not one.reverse_path for r in one.recipients)
    wrong = []
    for number in range(messages):
        path = _path(number)
        if path in unfailed:
            if arrived[path] or reports[path]:
                wrong.append(f"{path} was told of a failure, and its message waits")
        elif reports[path] > 1:
            wrong.append(f"{reports[path]} reports to {path} wait")
        elif not arrived[path] and not reports[path]:
            wrong.append(f"{path} was never told")
    failed = messages - sum(_path(number) in unfailed for number in range(messages))
    return Settled(failed, len(arrived), arrived.total() - len(arrived), wrong)


def result(
    settings: Mapping[str, Any],
    calm: Phase,
    rough: Phase,
    found: Settled,
    arrivals: Iterable[Arrival],
) -> Result:
    arrived_at: dict[str, float] = {}
    for arrival in arrivals:
        for recipient in arrival.recipients:
            arrived_at.setdefault(recipient, arrival.at)
    baseline = _figures(calm, arrived_at, until=None)
    took_s = rough.ended_at - rough.began_at
    figures = {
        **_figures(rough, arrived_at, until=rough.ended_at),
        "failed": found.failed,
        "reports_arrived": found.arrived,
        "reports_again": found.again,
        "storm_s": round(took_s, 2),
        "reports_per_s": round(found.arrived / took_s, 1),
    }
    limits = {
        name: round(max(_SLOWER * milliseconds, _ALWAYS_MS), 1)
        for name, milliseconds in baseline["live_ms"].items()
        if name != "max"
    }
    before, now = (half["live_ms"].get("p99", 0.0) for half in (baseline, figures))
    return Result(
        "storm",
        settings,
        figures,
        baseline,
        now / before if before else None,
        targets=[
            *(Target(f"live_ms.{name}", at_most=limit) for name, limit in limits.items()),
            Target("live_arrived", at_least=figures["live_sent"]),
            Target("reports_arrived", at_least=settings["messages"]),
            Target("reports_again", at_most=0),
        ],
    )


def _figures(phase: Phase, arrived_at: Mapping[str, float], until: float | None) -> dict[str, Any]:
    """What both phases have; latencies of what was accepted before `until` (Unix seconds)."""
    half = phase.half
    live, visitor = (
        {r: at for r, at in report.accepted.items() if until is None or at <= until}
        for report in (half.second, half.campaign)
    )
    return {
        "live_sent": len(half.second.told),
        "live_arrived": len(half.second.accepted.keys() & arrived_at.keys()),
        "live_ms": latency_from(live, arrived_at),
        "live_of_these": len(live),
        "visitor_arrived": len(half.campaign.accepted.keys() & arrived_at.keys()),
        "visitor_ms": latency_from(visitor, arrived_at),
        "cpu_s": round(phase.cpu_s, 2),
        "peak_bytes": half.peak_bytes,
        "stall_ms": dict(phase.stall_ms),
        "collector_ms": dict(phase.collector_ms),
    }


def _failing(messages: int) -> Iterator[Envelope]:
    for number in range(messages):
        yield Envelope(_path(number), (Recipient(f"r{number}@{REFUSES}"),))


def _path(number: int) -> str:
    return f"s{number}@{RETURNS}"


def _run(
    bench: Bench,
    directory: Path,
    hosts: Hosts,
    what: str,
    live: Errand,
    visitor: Errand,
    reports: int,
    limit_s: float,
) -> Phase:
    """Until the senders are done and so many `reports` have arrived, or no more come."""
    directory.mkdir(exist_ok=True)
    metered = directory / "figures.jsonl"
    words = flags(among_ours(hosts.dns_port, hosts.smtp_port))
    gateway = Gateway(directory, words, ("bench", "metered", "--figures", str(metered)))
    try:
        address = gateway.await_ready()
        began_at = time.time()
        half = Halves(bench, hosts, gateway, address).run(what, live, visitor)
        with bench.steps("the reports", reports) as advance:
            _await_reports(hosts, gateway, reports, began_at + limit_s, advance)
        cpu_s = usage(gateway.pid).cpu_s
        gateway.stop()
    finally:
        gateway.kill()
    arrivals = hosts.arrivals_at_returns
    ended_at = next((a.at for a in reversed(arrivals) if not a.reverse_path), began_at)
    found = loads(metered.read_text().splitlines()[-1])
    return Phase(half, began_at, ended_at, cpu_s, found["stall_ms"], found["collector_ms"])


def _await_reports(
    hosts: Hosts, gateway: Gateway, reports: int, until: float, advance: Callable[[int], None]
) -> None:
    arrivals = hosts.arrivals_at_returns
    told = seen = arrived = 0
    heard_at = time.time()
    while arrived < reports and time.time() < min(until, heard_at + _PATIENCE_S):
        gateway.check()
        fresh = arrivals[seen:]
        seen += len(fresh)
        arrived += sum(not arrival.reverse_path for arrival in fresh)
        if arrived > told:
            advance(arrived - told)
            told, heard_at = arrived, time.time()
        else:
            gevent.sleep(_POLL_S)


if __name__ == "__main__":
    as_module(__spec__.name)
