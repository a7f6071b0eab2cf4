"""`gwrelay bench wan`: a smart host that is far away: each of its replies is late.

Commands that come together share a delay, so a message on a kept session costs two of them, and
the rate is a matter of how many sessions are kept busy.  The baseline is the source with as many
sessions of its own; a relay that sends the next envelope together with a final dot passes it.
"""

from functools import partial

import click

from gwrelay_bench.load import Load, Reception
from gwrelay_bench.measure import Target
from gwrelay_bench.passing import Plan, run
from gwrelay_bench.rounds import Contest, contest, take_turns, tell
from gwrelay_bench.scenario import Bench, as_module, scenario

#: Of what the sessions allow: 1,800 of 2,500 messages a second with 500 sessions and 100 ms.
_SHARE = 0.72
_DELAYS_A_MESSAGE = 2
#: Beyond the sessions to the smart host, for those that come in.
_SPARE_PROCESSES = 100
#: Slow sites may have half of --concurrency, which is 2,000 by default.
_SLOW_SITES = 1000


@click.command("wan")
@click.option(
    "--delay", type=click.FloatRange(min=0, min_open=True), default=100.0, show_default=True,
    help="Milliseconds until each reply of the sink.",
)  # fmt: skip
@click.option(
    "--site-concurrency", type=click.IntRange(1), default=500, show_default=True,
    help="The gateway's, from the first; a tuned Postfix has as many.",
)  # fmt: skip
@scenario
@contest(messages=30_000, sessions=50)
def command(
    bench: Bench,
    contest: Contest,
    load: Load,
    delay: float,
    site_concurrency: int,
) -> None:
    """A smart host whose replies are 100 ms late: how many sessions are kept busy."""
    most = str(site_concurrency)
    flags = {"--site-concurrency": most, "--site-concurrency-initial": most}
    if site_concurrency > _SLOW_SITES:
        flags["--concurrency"] = str(2 * site_concurrency)
    plan = Plan(load, Reception(delay_s=delay / 1000))
    direct = plan._replace(load=load._replace(sessions=site_concurrency))
    scores = take_turns(
        contest, partial(run, bench, direct), partial(run, bench, plan), flags=flags,
        tuned={
            "default_process_limit": str(site_concurrency + _SPARE_PROCESSES),
            "default_destination_concurrency_limit": most,
            "initial_destination_concurrency": most,
        },
    )  # fmt: skip
    allowed_per_s = site_concurrency / (_DELAYS_A_MESSAGE * plan.reception.delay_s)
    tell(
        bench, "wan", load, scores,
        settings={"delay_ms": delay, "sessions_out": site_concurrency},
        targets=[
            Target("per_s", at_least=round(_SHARE * allowed_per_s)),
            Target("sessions_at_once", at_least=site_concurrency),
            contest.most_bytes(load.sessions + site_concurrency),
        ],
    )  # fmt: skip


if __name__ == "__main__":
    as_module(__spec__.name)
