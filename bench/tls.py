"""`gwrelay bench tls`: all to one smart host that takes mail under TLS alone.

Mail comes in in the clear: the gateway offers no STARTTLS.  The baseline is the source under TLS
straight into the sink.
"""

from functools import partial

import click

from gwrelay_bench.certificate import make_certificate
from gwrelay_bench.load import Load, Reception
from gwrelay_bench.passing import Plan, run
from gwrelay_bench.rounds import Contest, contest, take_turns, tell
from gwrelay_bench.scenario import Bench, as_module, scenario

_TIMES_POSTFIX = 2.0


@click.command("tls")
@scenario
@contest(messages=20_000)
def command(bench: Bench, contest: Contest, load: Load) -> None:
    """All to one smart host under TLS: rate, latencies, CPU and memory, beside Postfix."""
    plan = Plan(load, Reception(certificate=make_certificate(bench.directory)))
    direct = plan._replace(load=load._replace(encrypts=True))
    scores = take_turns(
        contest, partial(run, bench, direct), partial(run, bench, plan),
        flags={"--tls": "encrypt"},
        postfix={"smtp_tls_security_level": "encrypt"},
        # Or each message has a handshake of its own.
        tuned={"smtp_tls_connection_reuse": "yes", "default_destination_concurrency_limit": "50"},
    )  # fmt: skip
    tell(
        bench, "tls", load, scores, times={"per_s": _TIMES_POSTFIX},
        targets=[contest.most_bytes(load.sessions)],
    )  # fmt: skip


if __name__ == "__main__":
    as_module(__spec__.name)
