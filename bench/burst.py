"""`gwrelay bench burst`: mail comes by the clock, far below what is possible: how fast is each?

An open loop: a message begins when its time has come, whatever became of those before, so that a
relay which stalls is not given less to do meanwhile.
"""

from functools import partial

import click

from gwrelay_bench.load import Load
from gwrelay_bench.passing import Plan, run
from gwrelay_bench.rounds import Contest, contest, take_turns, tell
from gwrelay_bench.scenario import Bench, as_module, scenario

#: Of Postfix's latency.
_SHARE = 0.5


@click.command("burst")
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), default=200.0, show_default=True,
    help="Messages a second.",
)  # fmt: skip
@scenario
@contest(messages=6000, sessions=50)
def command(bench: Bench, contest: Contest, load: Load, rate: float) -> None:
    """200 messages a second by the clock: latency of the 250, and of the delivery."""
    load = load._replace(rate_per_s=rate)
    measure = partial(run, bench, Plan(load))
    scores = take_turns(contest, measure, measure)
    tell(
        bench, "burst", load, scores, settings={"rate_per_s": rate},
        targets=[contest.most_bytes(load.sessions)],
        shares={"dot_to_250_ms.p99": _SHARE, "to_arrival_ms.p99": _SHARE},
    )  # fmt: skip


if __name__ == "__main__":
    as_module(__spec__.name)
