"""`gwrelay bench backlog`: mail comes while the next hop is down, and goes when it is up again.

The relay takes everything and can deliver nothing; it is stopped and started again, beside a next
hop that works, and told to try all of it.  Whether taking it slows down, how soon a full relay
greets, and how fast it drains.  The baseline is the source straight into the sink.
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import click

from gwrelay_bench.ledger import AGAIN, ARRIVED
from gwrelay_bench.load import Load, Reception
from gwrelay_bench.loopback import free_port
from gwrelay_bench.measure import Target
from gwrelay_bench.passing import Passage, Plan, between, of_relay, run
from gwrelay_bench.relays import Relay
from gwrelay_bench.rounds import Contest, contest, take_turns, tell
from gwrelay_bench.scenario import Bench, as_module, scenario

#: Of Postfix's rates.
_TIMES = {"accepted_per_s": 4.0, "drained_per_s": 3.0}
_READY_S = 1.5
#: Of the messages, those whose rate is the first and the last.
_SHARE = 0.1
#: What the last rate may be of the first: less is falling, and not an unquiet machine.
_NOT_FALLING = 0.9


@click.command("backlog")
@scenario
@contest(messages=100_000, size="2K", fewest=20)
def command(bench: Bench, contest: Contest, load: Load) -> None:
    """100,000 messages while the next hop is down: taking them, a start, and draining."""
    plan = Plan(load, Reception(port=free_port()))
    scores = take_turns(
        contest, partial(_limit, bench, plan), partial(_measure, bench, plan),
        tuned={
            "default_destination_concurrency_limit": "50",
            "initial_destination_concurrency": "50",
        },
    )  # fmt: skip
    tell(
        bench, "backlog", load, scores, rate="accepted_per_s", times=_TIMES,
        targets=[
            Target("last_over_first", at_least=_NOT_FALLING),
            Target("ready_s", at_most=_READY_S),
            contest.most_bytes(load.sessions),
        ],
    )  # fmt: skip


def _limit(bench: Bench, plan: Plan, relay: Relay, what: str) -> dict[str, Any]:
    found = run(bench, plan, relay, what)
    return {name: found[name] for name in ("accepted_per_s", "load_cpu_s_per_1000", "again")}


def _measure(bench: Bench, plan: Plan, relay: Relay, what: str) -> dict[str, Any]:
    with Passage(bench, plan, relay, what) as passage:
        ledger, onward = passage.ledger, passage.onward(plan.reception.port)
        place = passage.directory / "relay"
        address = relay.start(place, onward)
        before = passage.used()
        passage.send(address, until_arrived=False)
        full, counted = passage.used(), relay.counted()
        stopping_at = time.time()
        relay.stop()
        with passage.sink():
            starting_at = time.time()
            relay.start(place, onward)
            ready_at = time.time()
            anew = passage.used()
            relay.flush()
            passage.watch(f"{what}, draining", ARRIVED, lambda: ledger.lost <= 0)
            drained = passage.used()
            relay.stop()
            passage.judge()
        answers, arrivals = sorted(ledger.answered_at), sorted(ledger.arrived_at)
        slice_ = max(2, round(_SHARE * plan.load.messages))
        first, last = _per_s(answers[:slice_]), _per_s(answers[-slice_:])
        return {
            "accepted_per_s": round(plan.load.messages / (answers[-1] - ledger.began_at), 1),
            "first_accepted_per_s": round(first, 1),
            "last_accepted_per_s": round(last, 1),
            "last_over_first": round(last / first, 3),
            "stop_s": round(starting_at - stopping_at, 2),
            "ready_s": round(ready_at - starting_at, 2),
            "first_arrival_s": round(arrivals[0] - starting_at, 2),
            "drained_per_s": round(
                plan.load.messages / (arrivals[-1] - min(ready_at, arrivals[0])), 1
            ),
            "dot_to_250_ms": between(ledger.sent_at, ledger.answered_at),
            "again": ledger.counters[AGAIN],
            **counted,
            **of_relay(plan.load.messages, before, full),
            "drain_cpu_s_per_1000": of_relay(plan.load.messages, anew, drained)["cpu_s_per_1000"],
            "peak_bytes": drained.peak_bytes,
            "processes": drained.processes,
        }


def _per_s(times: Sequence[float]) -> float:
    """Of what happened at these, ascending; at least two."""
    return (len(times) - 1) / max(times[-1] - times[0], 1e-6)


if __name__ == "__main__":
    as_module(__spec__.name)
