"""MXCalculator: where mail for a domain goes, and which hosts are down (RFC 5321 5.1).

The face of this room.  Joins what was looked up (lookups.py) with the bad-host marks (marks.py)
into plans for attempts (candidates.py).  Knows nothing of connections.  Usable by any number of
threads or greenlets; starts none.
"""

import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from gwrelay.mx.cache import Entry
from gwrelay.mx.candidates import BadUntil, Candidate, Plan, make_plan
from gwrelay.mx.exchanges import Exchange
from gwrelay.mx.lookups import Chained, Host, Key, Lookups, Outcome, Resolver, equals, normal_key
from gwrelay.mx.marks import Held, Mark, Marks, place
from gwrelay.mx.policy import MXPolicy

#: Seconds between two searches for marks that ended long ago.
_FORGET_MARKS_EVERY_S = 60.0


class MXCalculator:
    """The exchanges of a domain, from memory or by asking, and the marks on them.

    `resolver` None asks the name servers of resolv.conf.  `clock` gives seconds of any epoch;
    each time that goes in or comes out here is of that clock.
    """

    def __init__(
        self,
        resolver: Resolver | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        policy: MXPolicy | None = None,
        rng: random.Random | None = None,
        marks: Held | None = None,
    ) -> None:
        """`marks` is where bad-host marks are kept, if not by this one alone."""
        if resolver is None:
            # Not at the top: dnspython takes a while to load, and not everybody needs it.
            from gwrelay.mx.resolver import DNSResolver

            resolver = DNSResolver()
        self._policy = policy or MXPolicy()
        self._clock = clock
        self._rng = rng or random.Random()
        self._random = self._rng.random
        self._limit = self._policy.rules.cname_limit
        self.lookups = Lookups(resolver, clock, self._policy, self._rng)
        self._find: Callable[[Key], Entry[Any] | None] = self.lookups.find
        self._marks = Marks(
            self._policy.bad_time_first_s,
            self._policy.bad_time_max_s,
            self._policy.bad_time_jitter,
            self._rng,
            marks,
        )
        self._marked = self._marks.held
        #: Exchanges marked by name -> until when.
        self._bad_names: dict[str, float] = {}
        self._forget_marks_at = clock() + _FORGET_MARKS_EVERY_S
        #: Seconds that mark_bad(name) lasts.
        self.time_out_bad_mx: float = self._policy.bad_time_max_s

    @property
    def fallback_to_domain(self) -> bool:
        """Whether a domain without MX is its own exchange.  Counts from the next lookup on."""
        return self.lookups.rules.fallback_to_domain

    @fallback_to_domain.setter
    def fallback_to_domain(self, value: bool) -> None:
        self.lookups.rules = self.lookups.rules._replace(fallback_to_domain=value)

    def get_mx(self, domain: str, maximum_canonical_chain_length: int = 3) -> Exchange:
        """The best exchange of `domain` not marked bad; of the most preferred if all are.

        One of equals is chosen at random.  May ask name servers; raises ResolutionError.
        """
        # What nearly every call comes to, in one piece: bench/mx.py, mx_cached.
        entry = self._find(domain)
        if entry is not None and not (self._marked or self._bad_names):
            now = self._clock()
            best = entry.best
            if best and now < entry.expires_at and maximum_canonical_chain_length == self._limit:
                entry.used_at = now
                found: tuple[Exchange, ...] = entry.value
                return found[0 if best == 1 else int(self._random() * best)]
        key: Key = domain
        if maximum_canonical_chain_length != self._limit:
            key = Chained(domain, maximum_canonical_chain_length)
        exchanges = self.lookups.get(key)
        now = self._clock()
        exchanges = tuple(e for e in exchanges if not self._is_bad(e, now)) or exchanges
        return exchanges[int(self._random() * equals(exchanges))]

    def get_exchanges(self, domain: str) -> tuple[Exchange, ...]:
        """All exchanges by preference, from memory or by asking, which blocks this greenlet.

        Raises ResolutionError.
        """
        return self.lookups.get(domain)

    def cached(self, domain: str) -> Outcome | None:
        """The exchanges, or why there are none, if known without asking; else None."""
        return self.lookups.known(domain)

    def get_host(self, name: str) -> tuple[Exchange, ...]:
        """A smart host with its addresses: A and AAAA only, never MX, none denied.

        Raises ResolutionError, always one that defers.
        """
        return self.lookups.get(Host(name))

    def cached_host(self, name: str) -> Outcome | None:
        """get_host() if known without asking; else None."""
        return self.lookups.known(Host(name))

    def plan(self, exchanges: Sequence[Exchange], source: str = "") -> Plan:
        """The addresses one attempt from `source` tries, in order.  Differs from call to call."""
        bad_until = self._bad_until(source) if self._marked or self._bad_names else None
        policy = self._policy
        return make_plan(exchanges, bad_until, policy.max_hosts, policy.prefer_family, self._rng)

    def all_marked_until(self, exchanges: Sequence[Exchange], source: str = "") -> float:
        """When the first of the marks on all addresses ends; 0.0 as soon as one bears none.

        What plan() says of it, at no cost while nothing is marked.
        """
        if not (self._marked or self._bad_names):
            return 0.0
        now = self._clock()
        ends = []
        for exchange in exchanges:
            by_name = self._name_bad_until(exchange.name, now)
            for address in exchange.addresses:
                at = place(address, exchange.port)
                until = max(by_name, self._marks.until(at, source, now))
                if not until:
                    return 0.0
                ends.append(until)
        return min(ends, default=0.0)

    def mark_bad(self, name: str, for_s: float | None = None) -> None:
        """Leave the exchange `name` alone, at all its addresses, for time_out_bad_mx seconds."""
        now = self._clock()
        until = now + (self.time_out_bad_mx if for_s is None else for_s)
        name = _plain(name)
        self._bad_names[name] = until
        for address in self.lookups.addresses_of(name):
            self._marks.mark_until(address, "", now, until)

    def mark_good(self, name: str) -> bool:
        """Forget all marks of the exchange `name` and of its addresses, from any source.

        Returns whether there were any.
        """
        name = _plain(name)
        named = self._bad_names.pop(name, None) is not None
        return self._marks.clear_everywhere(self.lookups.addresses_of(name)) > 0 or named

    def bad_hosts(self) -> tuple[dict[str, float], list[Mark]]:
        """The running marks: of exchanges by name, until when, and of addresses."""
        now = self._clock()
        return {n: until for n, until in self._bad_names.items() if until > now}, (
            self._marks.running(now)
        )

    def flush(self, domain: str) -> bool:
        """Forget what is known of `domain`, and of a smart host of that name.

        Returns whether anything was.  Raises ResolutionError for what is no name.
        """
        forgotten = self.lookups.forget(normal_key(domain))
        return self.lookups.forget(normal_key(Host(domain))) or forgotten

    def mark_address_bad(
        self, address: str, source: str = "", port: int = 0, why: str = ""
    ) -> float:
        """No session from `source` with `address` came about; `why` is how it ended.  Returns when
        the mark ends.

        The first mark lasts bad_time_first_s, each next one twice as long, to bad_time_max_s.
        A reply to MAIL or later is no reason for one: it proves that the host is alive.
        """
        return self._marks.mark(place(address, port), source, self._clock(), why)

    def mark_address_good(self, address: str, source: str = "", port: int = 0) -> None:
        """`address` answered MAIL or later.  Cheap enough for every transaction."""
        if self._marked:
            self._marks.clear(place(address, port), source)

    def bad_until(self, address: str, source: str = "", port: int = 0) -> float:
        """When the mark of `address` ends; 0.0 if it bears none."""
        if not self._marked:
            return 0.0
        return self._marks.until(place(address, port), source, self._clock())

    def why_bad(self, exchanges: Sequence[Exchange], source: str = "") -> str:
        """Why one of them, the first that anything is known of, was marked: its name, address and
        what was said; "" where that is not known."""
        for exchange in exchanges:
            for address in exchange.addresses:
                why = self._marks.why(place(address, exchange.port), source)
                if why:
                    return f"{exchange.name}[{address}]: {why}"
        return ""

    def run(self, stop: threading.Event) -> None:
        """Keep what is in use fresh until `stop` is set.  Several may run at a time."""
        while not stop.wait(self.tend()):
            pass

    def tend(self) -> float:
        """One step of `run`; returns the seconds until the next."""
        now = self._clock()
        if now >= self._forget_marks_at:
            self._forget_marks_at = now + _FORGET_MARKS_EVERY_S
            self._marks.forget(now)
            for name in [n for n, until in self._bad_names.items() if until <= now]:
                del self._bad_names[name]
        return self.lookups.tend()

    def _is_bad(self, exchange: Exchange, now: float) -> bool:
        if self._bad_names and self._name_bad_until(exchange.name, now):
            return True
        return all(self._marks.until(address, "", now) for address in exchange.addresses)

    def _bad_until(self, source: str) -> BadUntil:
        now = self._clock()

        def bad_until(candidate: Candidate) -> float:
            by_address = self._marks.until(place(*candidate[1:3]), source, now)
            return max(by_address, self._name_bad_until(candidate.exchange, now))

        return bad_until

    def _name_bad_until(self, name: str, now: float) -> float:
        until = self._bad_names.get(name, 0.0)
        if until and until <= now:
            del self._bad_names[name]
            return 0.0
        return until


def _plain(name: str) -> str:
    return name.lower().removesuffix(".")
