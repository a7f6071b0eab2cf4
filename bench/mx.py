"""`gwrelay bench mx`: the MXCalculator from memory, asking, refreshing, and what it weighs.

cached     get_mx() of domains that are known, on one core
distinct   domains nobody asked for before, from a name server on loopback; the baseline is
           dnspython putting the same questions, in the same number of greenlets, in turns
refresh    every domain of a full cache refreshed by the loop; how long the loop stood still
memory     bytes for each domain remembered
"""

import gc
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click
import dns.message
import dns.query
import gevent

from gwrelay.mx.calculator import MXCalculator
from gwrelay.mx.exchanges import Answer, Question
from gwrelay.mx.packets import UDP_PAYLOAD_BYTES
from gwrelay.mx.policy import MXPolicy
from gwrelay.mx.resolver import DNSResolver
from gwrelay_bench.measure import Meter, Result, Target, resident_bytes
from gwrelay_bench.nameserver import NameServer, NoNameServer
from gwrelay_bench.scenario import Bench, BenchFailed, as_module, scenario

#: Of the records served, seconds.
TTL_S = 300
#: Loops that refresh at once, as in the gateway (service.py).
REFRESHERS = 4
#: Domains in one turn of what is measured against a baseline.
_TURN = 200
_KINDS: tuple[Any, ...] = ("MX", "A", "AAAA")


class Known:
    """Answers at once, as a name server with `exchanges` for each domain would, for `ttl_s`."""

    def __init__(self, exchanges: int = 1, ttl_s: float = TTL_S) -> None:
        self._exchanges = exchanges
        self._ttl_s = ttl_s

    def ask(self, question: Question) -> Answer:
        name = question.name
        if question.kind == "MX":
            hosts = tuple((10 * (n // 2), f"mx{n}.{name}") for n in range(self._exchanges))
            return Answer("records", self._ttl_s, mx=hosts)
        mark = hash(name) & 0xFFFF
        four, six = f"198.51.{mark >> 8}.{mark & 0xFF}", f"2001:db8::{mark:x}"
        found = four if question.kind == "A" else six
        return Answer("records", self._ttl_s, addresses=(found,))


class Switch:
    """One resolver first, another one later."""

    def __init__(self, resolver: Any) -> None:
        self.resolver = resolver

    def ask(self, question: Question) -> Answer:
        answer: Answer = self.resolver.ask(question)
        return answer


def domains(count: int) -> list[str]:
    return [f"d{n}.test" for n in range(count)]


def records(count: int) -> Iterator[str]:
    """For each of domains(count) an exchange of its own, with an address of either family."""
    for n, domain in enumerate(domains(count)):
        yield f"{domain}. {TTL_S} IN MX 0 mx0.{domain}."
        yield f"mx0.{domain}. {TTL_S} IN A 198.18.{n // 256 % 256}.{n % 256}"
        yield f"mx0.{domain}. {TTL_S} IN AAAA 2001:db8::{n:x}"


def cached(names: Sequence[str]) -> Result:
    """CPU time, because the core may have other work; the best of several rounds."""
    rates = {}
    for exchanges in (1, 4):
        calculator = MXCalculator(Known(exchanges), time.monotonic)
        for name in names:
            calculator.get_mx(name)
        rates[exchanges] = max(_rate(lambda c=calculator: _all(c.get_mx, names)) for _ in range(99))
    figures = {f"get_mx_per_s_{n}_exchanges": round(rate * len(names)) for n, rate in rates.items()}
    targets = [Target(name, at_least=500_000) for name in figures]
    return Result("mx", {"what": "cached", "domains": len(names)}, figures, targets=targets)


def _all(do: Callable[[str], object], names: Sequence[str]) -> None:
    for name in names:
        do(name)


def _rate(do: Callable[[], None]) -> float:
    """How often a second of CPU time."""
    before = time.thread_time()
    do()
    return 1.0 / (time.thread_time() - before)


def distinct(names: Sequence[str], server: NameServer, greenlets: int) -> Result:
    """In turns of _TURN domains, now one side first and now the other, so that both meet the same
    machine.  The ratio is the median of the turns': whatever else ran had a part in some only."""
    bare, ours = _Spent(), _Spent()
    calculator = MXCalculator(DNSResolver([server.address]), time.monotonic)
    sides = [
        (bare, lambda name: _ask_bare(name, server)),
        (ours, calculator.get_exchanges),
    ]
    ratios = []
    for start in range(0, len(names), _TURN):
        some = names[start : start + _TURN]
        for side, do in sides:
            side.spend(do, some, greenlets)
        ratios.append(bare.last_s / ours.last_s)
        sides.reverse()
    ratio = statistics.median(ratios)
    settings = {"domains": len(names), "greenlets": greenlets, "server": server.name}
    return Result(
        "mx",
        {"what": "distinct", **settings, "questions": list(_KINDS)},
        ours.per_domain(len(names)),
        bare.per_domain(len(names)),
        ratio,
        targets=[Target("ratio", at_least=0.7)],
    )


def _ask_bare(name: str, server: NameServer) -> None:
    for kind in _KINDS:
        asked = name if kind == "MX" else f"mx0.{name}"
        query = dns.message.make_query(asked, kind, use_edns=0, payload=UDP_PAYLOAD_BYTES)
        response = dns.query.udp(
            query,
            "127.0.0.1",
            5.0,
            server.port,
            ignore_unexpected=True,
            ignore_errors=True,
            raise_on_truncation=True,
        )
        if not response.answer:
            raise AssertionError(f"{server.name} does not know {asked} {kind}")


class _Spent:
    """Time that went into one of the two sides."""

    def __init__(self) -> None:
        self.wall_s = self.last_s = self.cpu_s = 0.0

    def spend(self, do: Callable[[str], object], names: Sequence[str], greenlets: int) -> None:
        """Have `greenlets` of them do all `names`."""
        waiting = iter(names)

        def work() -> None:
            for name in waiting:
                do(name)

        gc.collect()
        started, used = time.monotonic(), time.process_time()
        gevent.joinall([gevent.spawn(work) for _ in range(greenlets)], raise_error=True)
        self.last_s = time.monotonic() - started
        self.wall_s += self.last_s
        self.cpu_s += time.process_time() - used

    def per_domain(self, count: int) -> dict[str, float]:
        return {
            "domains_per_s": round(count / self.wall_s),
            "cpu_us_per_domain": round(self.cpu_s / count * 1e6),
        }


def refresh(count: int, server: NameServer, seconds: float) -> tuple[Result, Result]:
    """A cache of `count` domains, all in use, that all have to be refreshed in `seconds`.

    The clock goes as slowly or fast as that needs.  Meanwhile somebody asks for all of them
    again and again: nobody may find one expired.
    """
    names = domains(count)
    clock = _Clock()
    switch = Switch(Known())
    gc.collect()
    gc.freeze()  # as the gateway does with what is there at its start
    before = resident_bytes()
    calculator = MXCalculator(
        switch, clock, policy=MXPolicy(cache_size=count), rng=random.Random(1)
    )
    for name in names:
        calculator.get_exchanges(name)
    gc.collect()
    weight = (resident_bytes() - before) / count
    # Refreshes are due between 80 and 90 hundredths of the time to live.
    clock.advance(0.79 * TTL_S)
    _all(calculator.cached, names)
    switch.resolver = DNSResolver([server.address])
    clock.start(0.11 * TTL_S / seconds)
    stop = threading.Event()
    missed: list[str] = []
    started = time.monotonic()
    with Meter() as meter:
        loops = [gevent.spawn(calculator.run, stop) for _ in range(REFRESHERS)]
        reader = gevent.spawn(_read, calculator, names, missed)
        while calculator.lookups.refreshed < count and time.monotonic() - started < 3 * seconds:
            gevent.sleep(0.05)
        took_s = time.monotonic() - started
    stop.set()
    reader.kill()
    gevent.joinall(loops)
    stalls = meter.stalls()
    settings = {"domains": count, "refreshers": REFRESHERS, "server": server.name}
    done = calculator.lookups.refreshed
    result = Result(
        "mx",
        {"what": "refresh", **settings, "ttl_s": TTL_S},
        {
            "refreshed": done,
            "per_s": round(done / took_s),
            # "busiest" is what the process itself did between two ticks: that others had the core
            # is no stall of ours.
            "stall_ms": stalls,
            "found_expired": len(set(missed)),
        },
        targets=[
            Target("refreshed", at_least=count),
            Target("stall_ms.busiest", at_most=20.0),
            Target("stall_ms.max", at_most=20.0),
            Target("found_expired", at_most=0),
        ],
    )
    memory = Result("mx", {"what": "memory", "domains": count}, {"bytes_per_domain": round(weight)})
    return result, memory


def _read(calculator: MXCalculator, names: Sequence[str], missed: list[str]) -> None:
    """Ask for every domain, two hundred at a time, as mail would."""
    while True:
        for start in range(0, len(names), 200):
            missed += [n for n in names[start : start + 200] if calculator.cached(n) is None]
            gevent.sleep(0.01)


class _Clock:
    """Seconds that stand until they are started, and then go at `speed`."""

    def __init__(self) -> None:
        self._base, self._speed, self._from = 1000.0, 0.0, time.monotonic()

    def __call__(self) -> float:
        return self._base + self._speed * (time.monotonic() - self._from)

    def advance(self, seconds: float) -> None:
        self._base += seconds

    def start(self, speed: float) -> None:
        self._speed, self._from = speed, time.monotonic()


@click.command("mx")
@click.option("--domains", "asked", default=10_000, show_default=True, help="For distinct.")
@click.option("--cached", "kept", default=50_000, show_default=True, help="For refresh.")
@click.option("--greenlets", default=100, show_default=True, help="For distinct.")
@click.option("--seconds", default=60.0, show_default=True, help="That the refresh may take.")
@scenario
def command(bench: Bench, asked: int, kept: int, greenlets: int, seconds: float) -> None:
    """Exchanges from memory, from a name server, refreshed; against bare dnspython."""
    try:
        with (
            NameServer("test.", records(max(asked, kept))) as server,
            bench.steps("mx", 3) as advance,
        ):
            bench.tell(cached(domains(1000)))
            advance(1)
            bench.tell(distinct(domains(asked), server, greenlets))
            advance(1)
            for result in refresh(kept, server, seconds):
                bench.tell(result)
            advance(1)
    except NoNameServer as error:
        raise BenchFailed(str(error)) from None


if __name__ == "__main__":
    as_module(__spec__.name)
