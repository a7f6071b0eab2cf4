"""`gwrelay bench relay_many_sites`: a thousand domains, each with an exchange of its own.

The MX of every domain is asked of a name server on loopback (Unbound or Knot, or a small one of
this package where neither is installed), and every exchange has an address of its own, all of them
one sink's.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial

import click

from gwrelay_bench import zone
from gwrelay_bench.load import Load, Reception
from gwrelay_bench.loopback import free_port
from gwrelay_bench.nameserver import NameServer, NoNameServer, found_server
from gwrelay_bench.passing import Plan, run
from gwrelay_bench.relays import Address
from gwrelay_bench.rounds import LEAN, Contest, contest, take_turns, tell
from gwrelay_bench.scenario import Bench, BenchFailed, as_module, scenario

_TIMES_POSTFIX = 5.0
_TTL_S = 300
#: Nothing else has its port 53, which is where Postfix asks.
_ASKED = ("127.53.0.1", 53)
#: Most on one net of ours, 127.6.N.0/24.
_ON_A_NET = 250


@click.command("relay_many_sites")
@click.option(
    "--domains", type=click.IntRange(1, 256 * _ON_A_NET), default=1000, show_default=True,
    help="The messages are for them in turn.",
)  # fmt: skip
@scenario
@contest(messages=20_000)
def command(bench: Bench, contest: Contest, load: Load, domains: int) -> None:
    """1,000 domains with MX lookups: rate, latencies, CPU and memory, beside Postfix."""
    addresses = {
        f"d{number}.example": f"127.6.{number // _ON_A_NET}.{number % _ON_A_NET + 1}"
        for number in range(domains)
    }
    load = load._replace(domains=domains)
    # The same port has to be free on each.
    reception = Reception(tuple(addresses.values()), free_port())
    with ExitStack() as opened:
        server, asked = _serve(addresses, opened, at_53=bool(contest.postfix))
        measure = partial(run, bench, Plan(load, reception, asked))
        scores = take_turns(contest, measure, measure)
    tell(
        bench, "relay_many_sites", load, scores,
        settings={"domains": domains, "name_server": server}, times={"per_s": _TIMES_POSTFIX},
        targets=[LEAN, contest.most_bytes(load.sessions + domains)],
    )  # fmt: skip


def _serve(addresses: Mapping[str, str], opened: ExitStack, *, at_53: bool) -> tuple[str, Address]:
    """Until `opened` is closed: the name server's name, and where it is."""
    if at_53 and os.geteuid() != 0:
        raise BenchFailed("Postfix asks name servers at port 53 only, which is root's")
    host, port = _ASKED if at_53 else ("127.0.0.1", 0)
    if found_server() is None:
        small = zone.NameServer(zone.one_exchange_each(addresses), host, port)
        opened.callback(small.close)
        return "of this package", (host, small.port)
    try:
        server = opened.enter_context(NameServer("example.", _records(addresses), host, port))
    except NoNameServer as error:
        raise BenchFailed(str(error)) from error
    return server.name, (host, server.port)


def _records(addresses: Mapping[str, str]) -> Iterator[str]:
    for domain, address in addresses.items():
        yield f"{domain}. {_TTL_S} IN MX 10 mx.{domain}."
        yield f"mx.{domain}. {_TTL_S} IN A {address}"


if __name__ == "__main__":
    as_module(__spec__.name)
