"""`gwrelay bench mixed`: what one sender's campaign, and hosts in trouble, cost another sender.

A second sender's messages for hosts that are well pass a gateway alone: the baseline.  Then once
more, while a campaign comes in at full speed for these and for hosts that are slow or dead.  The
latency is from the 250 for a message to its final dot at the sink.  Every recipient is accounted
for: arrived, or still in the spool.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import click

from gwrelay_bench.figures import latency_from
from gwrelay_bench.gateway import Gateway, among_ours, flags
from gwrelay_bench.halves import Half, Halves
from gwrelay_bench.machine import footprint, raise_file_limit
from gwrelay_bench.measure import Result, Target
from gwrelay_bench.relays import counted_at
from gwrelay_bench.rounds import AS_IT_COMES, gateway_option
from gwrelay_bench.scenario import Bench, BenchFailed, as_module, scenario
from gwrelay_bench.sender import Errand, SenderDied
from gwrelay_bench.sinksession import Arrival
from gwrelay_bench.spooling import waiting_in
from gwrelay_bench.troubled import MOST, SLOW_S, Hosts, NotDead, domains

#: What the trouble may make of the second sender's latency: so many times what it was, and so
#: many milliseconds in any case.
_SLOWER, _ALWAYS_MS = 1.5, 300.0
#: Ten times what python-slimta takes, which has that latency.
_INTAKE_PER_S = 2900
_MESSAGE_BYTES = 4096
_CAMPAIGN_SESSIONS = 20
#: It sends by the clock: while an answer is late, the next message takes another session.
_SECOND_SESSIONS = 5
#: Of what is lost, so many are named.
_NAMED = 10


@click.command("mixed")
@click.option("--destinations", type=click.IntRange(1, MOST), default=200, show_default=True)
@click.option(
    "--dead-share", type=click.FloatRange(0, 1), default=0.1, show_default=True,
    help="Of them: connecting times out.",
)  # fmt: skip
@click.option(
    "--slow-share", type=click.FloatRange(0, 1), default=0.1, show_default=True,
    help=f"Of them: each reply takes {SLOW_S:g} s.",
)  # fmt: skip
@click.option(
    "--campaign", type=click.IntRange(1), default=20_000, show_default=True,
    help="Its messages, over all destinations in turn.",
)  # fmt: skip
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True,
    help="That the second sender sends, without the trouble and again with it.",
)  # fmt: skip
@click.option(
    "--interval", type=click.FloatRange(min=0, min_open=True), default=0.05, show_default=True,
    help="Seconds between two of its messages.",
)  # fmt: skip
@gateway_option
@scenario
def command(
    bench: Bench,
    destinations: int,
    dead_share: float,
    slow_share: float,
    campaign: int,
    seconds: float,
    interval: float,
    gateway: tuple[str, ...],
) -> None:
    """A campaign, dead hosts and slow ones: the latency of another sender's mail."""
    raise_file_limit()
    mixed = domains(destinations, dead_share, slow_share)
    if not mixed.well:
        raise BenchFailed("no destination is well: the second sender has nobody to write to")
    crowd = Errand(
        "campaign", "campaign@source.example", mixed.all, campaign, _MESSAGE_BYTES,
        _CAMPAIGN_SESSIONS,
    )  # fmt: skip
    alone = Errand(
        "alone", "second@source.example", mixed.well, max(1, round(seconds / interval)),
        _MESSAGE_BYTES, _SECOND_SESSIONS, interval,
    )  # fmt: skip
    settings = {
        "destinations": destinations,
        "dead": len(mixed.dead),
        "slow": len(mixed.slow),
        "campaign": campaign,
        "seconds": seconds,
        "interval_s": interval,
        "bytes": _MESSAGE_BYTES,
        "campaign_sessions": _CAMPAIGN_SESSIONS,
        "flags": " ".join(gateway) or AS_IT_COMES,
        "cores_shared_by": "the gateway, senders, sinks",
    }
    try:
        with Hosts(mixed) as hosts:
            # All that bears on the trouble is as it comes.
            words = [*flags(among_ours(hosts.dns_port, hosts.smtp_port)), *gateway]
            running = Gateway(bench.directory, words)
            try:
                halves = Halves(bench, hosts, running, running.await_ready())
                calm = halves.run("the second sender alone", alone)
                rough = halves.run("beside the campaign", alone._replace(name="beside"), crowd)
                counted = counted_at(str(bench.directory / "spool" / "admin.sock"))
                counted["processes"] = footprint(running.pid)[1]
                running.stop()
            finally:
                running.kill()
    except (NotDead, SenderDied) as error:
        raise BenchFailed(str(error)) from error
    arrivals = [*hosts.arrivals_at_well, *hosts.arrivals_at_slow]
    envelopes = waiting_in(bench.directory / "spool")
    waiting = frozenset(one["address"] for envelope in envelopes for one in envelope["recipients"])
    lost = missing({**calm.accepted, **rough.accepted}, arrivals, waiting)
    if lost:
        raise BenchFailed(
            f"{len(lost)} messages neither arrived nor are in the spool: {', '.join(lost[:_NAMED])}"
        )
    bench.tell(result(settings, calm, rough, arrivals, counted))


def missing(
    accepted: Iterable[str], arrivals: Iterable[Arrival], waiting: frozenset[str]
) -> list[str]:
    """The `accepted` recipients that neither arrived nor are `waiting` in the spool, sorted."""
    arrived = {recipient for arrival in arrivals for recipient in arrival.recipients}
    return sorted(set(accepted) - arrived - waiting)


def result(
    settings: Mapping[str, Any],
    calm: Half,
    rough: Half,
    arrivals: Iterable[Arrival],
    counted: Mapping[str, Any] = {},
) -> Result:
    """The figures of the rough half beside those of the calm one, with nothing lost, and what was
    `counted` in both; the ratio is that of the second sender's p99."""
    arrived_at: dict[str, float] = {}
    times: Counter[str] = Counter()
    for arrival in arrivals:
        for recipient in arrival.recipients:
            arrived_at.setdefault(recipient, arrival.at)
            times[recipient] += 1
    baseline = _figures(calm, arrived_at)
    campaign, accepted = rough.campaign, rough.campaign.accepted
    during = {
        recipient: answered_at
        for recipient, answered_at in rough.second.accepted.items()
        if campaign.began_at <= answered_at <= campaign.ended_at
    }
    arrived = len(accepted.keys() & arrived_at.keys())
    figures = {
        **_figures(rough, arrived_at),
        "second_ms_while_campaign_enters": latency_from(during, arrived_at),
        "campaign_accepted": len(accepted),
        "campaign_accepted_per_s": round(campaign.accepted_per_s, 1),
        # Near its number of workers the gateway limits the rate; far below, who shares the cores.
        "gateway_cores_while_campaign_enters": rough.cores_for_campaign,
        "campaign_arrived": arrived,
        "campaign_waiting": len(accepted) - arrived,
        "arrived_again": times.total() - len(times),
        **counted,
    }
    limits = {
        name: round(max(_SLOWER * milliseconds, _ALWAYS_MS), 1)
        for name, milliseconds in baseline["second_ms"].items()
        if name != "max"
    }
    before, now = (half["second_ms"].get("p99", 0.0) for half in (baseline, figures))
    return Result(
        "mixed",
        settings,
        figures,
        baseline,
        now / before if before else None,
        targets=[
            # Most of a long half comes after the campaign, whose time is told apart for that.
            *(
                Target(f"{figure}.{name}", at_most=limit)
                for figure in ("second_ms", "second_ms_while_campaign_enters")
                for name, limit in limits.items()
            ),
            Target("second_arrived", at_least=len(rough.second.told)),
            Target("campaign_accepted_per_s", at_least=_INTAKE_PER_S),
        ],
    )


def _figures(half: Half, arrived_at: Mapping[str, float]) -> dict[str, Any]:
    """What both halves have."""
    accepted = half.second.accepted
    return {
        "second_sent": len(half.second.told),
        "second_arrived": len(accepted.keys() & arrived_at.keys()),
        "second_ms": latency_from(accepted, arrived_at),
        "cpu_s_per_1000": round(1000 * half.cpu_s / max(1, len(half.accepted)), 3),
        "peak_bytes": half.peak_bytes,
        "connections_at_once": half.connections,
    }


if __name__ == "__main__":
    as_module(__spec__.name)
