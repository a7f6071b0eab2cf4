"""`gwrelay bench relay_one_site`: everything to one smart host, each 250 durable.

Sessions that never pause hand in messages as fast as they are answered, and a sink takes them.
Rates are end to end: from the first byte in to the last final dot at the sink.
"""

from functools import partial

import click

from gwrelay_bench.load import Load
from gwrelay_bench.measure import Target
from gwrelay_bench.passing import Plan, run
from gwrelay_bench.rounds import LEAN, Contest, contest, take_turns, tell
from gwrelay_bench.scenario import Bench, as_module, scenario

#: So many times Postfix: by sessions that are kept, by those for one message, and by large mail.
_FEW, _MANY, _FOR_ONE, _LARGE = 6.0, 8.0, 4.0, 3.0
_MANY_SESSIONS, _LARGE_BYTES = 200, 32 * 1024
#: Each message is read and written twice where there is a relay, and half of that is its own.
_OF_LIMIT = Target("ratio", at_least=0.25)

#: More sessions than this to a sink on the same cores only cost.
_TUNED = {"default_destination_concurrency_limit": "50"}


@click.command("relay_one_site")
@click.option(
    "--sessions", type=click.IntRange(1), multiple=True, default=(20, 200), show_default=True,
    help="That hand it in; repeat it for several.",
)  # fmt: skip
@click.option(
    "--per-connection", type=click.IntRange(0), default=0, show_default=True,
    help="Messages for each connection in; 0: they are kept.",
)  # fmt: skip
@scenario
@contest(messages=20_000, sessions=None)
def command(
    bench: Bench,
    contest: Contest,
    load: Load,
    sessions: tuple[int, ...],
    per_connection: int,
) -> None:
    """All to one smart host: rate, latencies, CPU and memory, beside Postfix."""
    for count in sessions:
        each = load._replace(sessions=count, per_connection=per_connection)
        measure = partial(run, bench, Plan(each))
        scores = take_turns(contest, measure, measure, tuned=_TUNED)
        tell(
            bench, "relay_one_site", each, scores, times={"per_s": _least(each)},
            targets=[*_targets(each), contest.most_bytes(count)],
        )  # fmt: skip


def _least(load: Load) -> float:
    if load.per_connection:
        return _FOR_ONE
    if load.size_bytes >= _LARGE_BYTES:
        return _LARGE
    return _MANY if load.sessions >= _MANY_SESSIONS else _FEW


def _targets(load: Load) -> list[Target]:
    if load.per_connection or load.size_bytes >= _LARGE_BYTES:
        return []
    return [LEAN, _OF_LIMIT] if load.sessions >= _MANY_SESSIONS else [LEAN]


if __name__ == "__main__":
    as_module(__spec__.name)
