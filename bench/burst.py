"""`gwrelay bench burst`: mail comes by the clock, far below what is possible: how fast is each?

An open loop: a message begins when its time has come, whatever became of those before, so that a
relay which stalls is not given less to do meanwhile.
"""

from functools import partial

import click

from gwrelay_bench.machine import raise_file_limit
from gwrelay_bench.passing import Plan, run
from gwrelay_bench.rounds import Contest, contest, take_turns, tell
from gwrelay_bench.scenario import Bench, Size, as_module, scenario

#: Of Postfix's latency.
_SHARE = 0.5


@click.command("burst")
@click.option("--messages", type=click.IntRange(1), default=6000, show_default=True)
@click.option("--size", default="4K", show_default=True, type=Size(), help="Of each message.")
@click.option("--sessions", type=click.IntRange(1), default=50, show_default=True, help="In.")
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), default=200.0, show_default=True,
    help="Messages a second.",
)  # fmt: skip
@scenario
@contest
def command(
    bench: Bench, contest: Contest, messages: int, size: int, sessions: int, rate: float
) -> None:
    """200 messages a second by the clock: latency of the 250, and of the delivery."""
    raise_file_limit()
    plan = Plan(messages, size, sessions, rate_per_s=rate)
    measure = partial(run, bench, plan)
    scores = take_turns(contest, measure, measure)
    tell(
        bench, "burst", plan, scores, settings={"rate_per_s": rate},
        targets=[contest.most_bytes(sessions)],
        shares={"dot_to_250_ms.p99": _SHARE, "to_arrival_ms.p99": _SHARE},
    )  # fmt: skip


if __name__ == "__main__":
    as_module(__spec__.name)
