"""`gwrelay bench dns`: a name server for thousands of domains that exist on this machine alone.

It knows the domains that `gwrelay bench source --domains N` writes to: with a gateway that asks it,
mail for them goes to whoever listens on the addresses of their exchanges.
"""

import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import click
import gevent
from gevent.event import Event
from rich.console import Console

from gwrelay.errors import ConfigError
from gwrelay.notation import Network, read_address, read_duration, read_network
from gwrelay_bench.bars import ticker
from gwrelay_bench.measure import Result, emit
from gwrelay_bench.mix import RIGHT_DOMAINS, read_domains
from gwrelay_bench.options import RIGHT_ADDRESS, read_with
from gwrelay_bench.table import print_results
from gwrelay_bench.zone import NameServer, Table

_TELL_EVERY_S = 0.5
_MOST_EXCHANGES = 20
_RIGHT_NETWORK = "write an address or a network, like 127.0.0.1 or 127.6.0.0/16"


@click.command("dns", short_help="Know the exchanges of made-up domains.")
@click.option(
    "--listen", "address", default="127.0.0.1", show_default=True, metavar="ADDR",
    callback=read_with(read_address, RIGHT_ADDRESS),
)  # fmt: skip
@click.option(
    "--port", type=click.IntRange(0, 65535), default=5353, show_default=True,
    help="0: any that is free.",
)  # fmt: skip
@click.option(
    "--domains", default="1000", show_default=True, metavar="N|DOMAIN,...",
    callback=read_with(lambda text: [name for name, _ in read_domains(text)], RIGHT_DOMAINS),
    help="N is d0.example and so on.",
)  # fmt: skip
@click.option(
    "--exchanges", type=click.IntRange(1, _MOST_EXCHANGES), default=1, show_default=True,
    help="Of each domain, with preferences 10, 20, ...",
)  # fmt: skip
@click.option(
    "--hosts", type=click.IntRange(1), metavar="N",
    help="So many exchanges in all, which domains share in turn.  [none is shared]",
)  # fmt: skip
@click.option(
    "--addresses", "network", default="127.0.0.1", show_default=True, metavar="ADDR|CIDR",
    callback=read_with(lambda text: _network(text), _RIGHT_NETWORK),
    help="Of the exchanges: the same one of all, or one of this network for each.",
)  # fmt: skip
@click.option(
    "--ttl", default="60s", show_default=True, metavar="DURATION",
    callback=read_with(lambda text: int(read_duration(text)), "write a duration, like 60s or 1h"),
    help="Of every answer, a no included.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON in the end.")
def command(
    address: str, port: int, domains: Sequence[str], exchanges: int, hosts: int | None,
    network: Network, ttl: int, as_json: bool,
) -> Callable[[], int]:  # fmt: skip
    """Answer for made-up domains until Ctrl-C or SIGTERM, and say what was asked.

    gwrelay serve asks it with --resolver ADDR:PORT; with --smtp-port and --deny-host none its
    mail goes to gwrelay bench sink.
    """
    count = hosts or len(domains) * exchanges
    if network.num_addresses > 1 and network.num_addresses <= count:
        raise click.BadParameter(
            f"has no {count:,} addresses for as many exchanges; write a larger network, or fewer"
            " --hosts",
            param_hint="--addresses",
        )
    table = zone_of(domains, exchanges, count, network)
    return lambda: _run(table, address, port, ttl, as_json=as_json)


def zone_of(domains: Sequence[str], exchanges: int, hosts: int, network: Network) -> Table:
    """Each of `domains` has so many `exchanges` of the `hosts` that there are, in turn."""
    # A network's first address is the network.
    if network.num_addresses == 1:
        addresses: Iterator[str] = iter([str(network[0])] * hosts)
    else:
        addresses = map(str, islice(network, 1, hosts + 1))
    kind = "A" if network.version == 4 else "AAAA"
    found = {_host(number): {kind: [address]} for number, address in enumerate(addresses)}
    for number, domain in enumerate(domains):
        mine = [(number * exchanges + turn) % hosts for turn in range(exchanges)]
        found[domain.lower()] = {
            "MX": [f"{10 * (turn + 1)} {_host(host)}." for turn, host in enumerate(mine)]
        }
    return found


def _host(number: int) -> str:
    return f"mx{number}.hosts.example"


def _run(table: Table, address: str, port: int, ttl_s: int, *, as_json: bool) -> int:
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, stop.set)
    told = Console(stderr=True, highlight=False)
    try:
        server = NameServer(table, address, port, ttl_s=ttl_s)
    except OSError as error:
        raise ConfigError(f"--listen: {address} port {port}: {error.strerror}") from None
    try:
        told.print(f"answering at {address}:{server.port}", soft_wrap=True)
        with ticker(told) as line:
            task = line.add_task("")
            while not stop.wait(_TELL_EVERY_S):
                asked = f"{server.questions.total():,} questions"
                line.update(task, description=asked, refresh=True)
    finally:
        server.close()
    domains = sum("MX" in records for records in table.values())
    settings = {"listen": address, "port": server.port, "domains": domains, "ttl_s": ttl_s}
    settings["hosts"] = len(table) - domains
    result = Result("dns", settings, figures(server.questions, table))
    if as_json:
        emit(result)
    print_results([result], told if as_json else Console(highlight=False))
    return 0


def figures(questions: Counter[tuple[str, str]], table: Table) -> dict[str, object]:
    """How many, of what kind, about how many names; `unknown` are those that do not exist."""
    kinds: Counter[str] = Counter()
    for (_, kind), count in questions.items():
        kinds[kind] += count
    return {
        "questions": questions.total(),
        "by_type": dict(sorted(kinds.items())),
        "names": len({name for name, _ in questions}),
        "unknown": sum(count for (name, _), count in questions.items() if name not in table),
    }


def _network(text: str) -> Network:
    [network] = read_network(text)
    return network
