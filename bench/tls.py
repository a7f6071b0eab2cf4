"""`gwrelay bench tls`: all to one smart host, handed in under TLS, delivered under TLS, or both.

By STARTTLS, in sessions that are kept.  The baseline is the source under TLS straight into the
sink.
"""

from functools import partial

import click

from gwrelay_bench.certificate import make_certificate
from gwrelay_bench.load import Load, Reception
from gwrelay_bench.passing import Plan, run
from gwrelay_bench.rounds import Contest, contest, take_turns, tell
from gwrelay_bench.scenario import Bench, as_module, scenario

_TIMES_POSTFIX = 2.0
IN, OUT, BOTH = SIDES = ("in", "out", "both")


@click.command("tls")
@click.option(
    "--side", type=click.Choice(SIDES), default=BOTH, show_default=True,
    help="Under TLS: what comes in, what goes out, or both.",
)  # fmt: skip
@scenario
@contest(messages=20_000)
def command(bench: Bench, contest: Contest, load: Load, side: str) -> None:
    """All to one smart host under TLS: rate, latencies, CPU and memory, beside Postfix."""
    certificate = make_certificate(bench.directory)
    under_tls = Plan(load._replace(encrypts=True), Reception(certificate=certificate))
    plan = Plan(
        under_tls.load if side != OUT else load,
        under_tls.reception if side != IN else Reception(),
    )
    flags, postfix, tuned = {}, {}, {}
    if side != OUT:
        flags |= {"--tls-cert": certificate, "--tls-key": certificate}
        postfix |= {"smtpd_tls_security_level": "may", "smtpd_tls_chain_files": certificate}
    if side != IN:
        flags["--tls"] = postfix["smtp_tls_security_level"] = "encrypt"
        # Or each message has a handshake of its own.
        tuned = {"smtp_tls_connection_reuse": "yes", "default_destination_concurrency_limit": "50"}
    scores = take_turns(
        contest, partial(run, bench, under_tls), partial(run, bench, plan),
        flags=flags, postfix=postfix, tuned=tuned,
    )  # fmt: skip
    tell(
        bench, "tls", load, scores, settings={"side": side}, times={"per_s": _TIMES_POSTFIX},
        targets=[contest.most_bytes(load.sessions)],
    )  # fmt: skip


if __name__ == "__main__":
    as_module(__spec__.name)
