"""`gwrelay bench tls`: all to one smart host that takes mail under TLS alone.

Mail comes in in the clear: the gateway offers no STARTTLS.  The baseline is the source under TLS
straight into the sink.
"""

from functools import partial

import click

from gwrelay_bench.certificate import make_certificate
from gwrelay_bench.machine import raise_file_limit
from gwrelay_bench.passing import Plan, run
from gwrelay_bench.rounds import Contest, contest, take_turns, tell
from gwrelay_bench.scenario import Bench, Size, as_module, scenario

_TIMES_POSTFIX = 2.0


@click.command("tls")
@click.option("--messages", type=click.IntRange(1), default=20_000, show_default=True)
@click.option("--size", default="4K", show_default=True, type=Size(), help="Of each message.")
@click.option("--sessions", type=click.IntRange(1), default=20, show_default=True, help="In.")
@scenario
@contest
def command(bench: Bench, contest: Contest, messages: int, size: int, sessions: int) -> None:
    """All to one smart host under TLS: rate, latencies, CPU and memory, beside Postfix."""
    raise_file_limit()
    plan = Plan(messages, size, sessions, certificate=make_certificate(bench.directory))
    scores = take_turns(
        contest, partial(run, bench, plan, encrypts=True), partial(run, bench, plan),
        flags={"--tls": "encrypt"},
        postfix={"smtp_tls_security_level": "encrypt"},
        # Or each message has a handshake of its own.
        tuned={"smtp_tls_connection_reuse": "yes", "default_destination_concurrency_limit": "50"},
    )  # fmt: skip
    tell(
        bench, "tls", plan, scores, times={"per_s": _TIMES_POSTFIX},
        targets=[contest.most_bytes(sessions)],
    )  # fmt: skip


if __name__ == "__main__":
    as_module(__spec__.name)
