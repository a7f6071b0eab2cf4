"""Benches of the MXCalculator: from memory, asking, refreshing, and what it all weighs.

    python -m gwrelay_bench.mx [--domains N] [--cached N] [--greenlets N] [--json]

    cached     get_mx() of domains that are known, on one core
    distinct   domains nobody asked for before, from a name server on loopback; the baseline is
               dnspython putting the same questions, in the same number of greenlets, in turns
    refresh    every domain of a full cache refreshed by the loop; how long the loop stood still
    memory     bytes for each domain remembered

Exit status 1 when a target is missed, each of which stands beside its figure.
"""

if __name__ == "__main__":
    # A program of its own, so that it begins as the gateway does (see gwrelay/__main__.py).
    from gevent import monkey

    monkey.patch_all()

import gc
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click
import dns.message
import dns.query
import gevent
from rich.console import Console
from rich.table import Table

from gwrelay.mx.calculator import MXCalculator
from gwrelay.mx.exchanges import Answer, Question
from gwrelay.mx.policy import MXPolicy
from gwrelay.mx.resolver import UDP_PAYLOAD_BYTES, DNSResolver
from gwrelay_bench.measure import Meter, Result, emit, resident_bytes
from gwrelay_bench.nameserver import NameServer, NoNameServer

CACHED_PER_S = 500_000
DISTINCT_RATIO = 0.7
STALL_MS = 20.0

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
    figures["target_per_s"] = CACHED_PER_S
    worst = min(rates.values()) * len(names)
    return Result("mx_cached", {"domains": len(names)}, figures, ok=worst >= CACHED_PER_S)


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
        "mx_distinct",
        {**settings, "questions": list(_KINDS)},
        {**ours.per_domain(len(names)), "target_ratio": DISTINCT_RATIO},
        bare.per_domain(len(names)),
        ratio,
        ratio >= DISTINCT_RATIO,
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
        "mx_refresh",
        {**settings, "ttl_s": TTL_S},
        {
            "refreshed": done,
            "per_s": round(done / took_s),
            "stall_ms": stalls,
            "target_stall_ms": STALL_MS,
            "found_expired": len(set(missed)),
        },
        # What the process itself did; that others had the core is no stall of ours.
        ok=done >= count and stalls["busiest"] <= STALL_MS and not missed,
    )
    memory = Result("mx_memory", {"domains": count}, {"bytes_per_domain": round(weight)})
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


def _shown(one: Result) -> str:
    """The figures of one bench, for people."""
    f = one.figures
    match one.bench:
        case "mx_cached":
            one_exchange, four = (f[f"get_mx_per_s_{n}_exchanges"] for n in (1, 4))
            target = f"(target {f['target_per_s']:,})"
            return f"{one_exchange:,} get_mx/s, {four:,} with 4 exchanges {target}"
        case "mx_distinct":
            target = f"(target {f['target_ratio']} of bare dnspython)"
            return f"{f['domains_per_s']:,} domains/s, {f['cpu_us_per_domain']:,} us CPU {target}"
        case "mx_refresh":
            stall, target = f["stall_ms"], f"(target {f['target_stall_ms']})"
            longest = f"longest stall {stall['max']} ms, of which ours {stall['busiest']} {target}"
            done = f"{f['refreshed']:,} refreshed, {f['per_s']:,}/s"
            return f"{done}, {longest}, {f['found_expired']} found expired"
    return f"{f['bytes_per_domain']:,} bytes for each domain"


def print_results(results: Sequence[Result], console: Console) -> None:
    table = Table("bench", "figures", "baseline", "ratio", "", title="MXCalculator")
    for one in results:
        baseline = ", ".join(f"{value:,}" for value in one.baseline.values())
        ratio = "" if one.ratio is None else f"{one.ratio:.2f}"
        verdict = "ok" if one.ok else "MISSED"
        table.add_row(one.bench, _shown(one), baseline, ratio, verdict)
    console.print(table)


@click.command()
@click.option("--domains", "asked", default=10_000, show_default=True, help="For distinct.")
@click.option("--cached", "kept", default=50_000, show_default=True, help="For refresh.")
@click.option("--greenlets", default=100, show_default=True, help="For distinct.")
@click.option("--seconds", default=60.0, show_default=True, help="That the refresh may take.")
@click.option("--json", "as_json", is_flag=True, help="Print no table.")
def main(asked: int, kept: int, greenlets: int, seconds: float, as_json: bool) -> None:
    """Measure the MXCalculator against its targets."""
    try:
        with NameServer("test.", records(max(asked, kept))) as server:
            results = [cached(domains(1000)), distinct(domains(asked), server, greenlets)]
            results += refresh(kept, server, seconds)
    except NoNameServer as error:
        raise click.ClickException(str(error)) from None
    for one in results:
        emit(one)
    if not as_json:
        print_results(results, Console(stderr=True))
    sys.exit(0 if all(one.ok for one in results) else 1)


if __name__ == "__main__":
    main()
