"""Resolutions remembered, run at most once at a time, refreshed before they expire.

Joins the rules (exchanges.py), the name servers (resolver.py) and memory (cache.py).  What is
looked up is named by a Key.  A domain is its own, a plain str, so that the path of every message
builds nothing; the other two are no str, so that nothing a client writes after an @ can pass for
a smart host, whose addresses are never denied.
"""

import random
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

from gwrelay.mx.cache import Cache, Entry
from gwrelay.mx.exchanges import (
    Answer,
    Exchange,
    LookupFailed,
    Question,
    Resolution,
    ResolutionError,
    Resolved,
    conclude,
    literal_address,
    normal_domain,
    normal_host,
    resolve,
    resolve_host,
)
from gwrelay.mx.policy import MXPolicy
from gwrelay.mx.turns import Landing, Turns


class Host(NamedTuple):
    """The key of a smart host."""

    name: str


class Chained(NamedTuple):
    """The key of a domain whose CNAME records are followed to another limit than usual."""

    domain: str
    cname_limit: int


Key = str | Host | Chained

#: What a lookup comes to.  Never empty.
Outcome = tuple[Exchange, ...] | ResolutionError

#: Seconds between two looks for something to refresh when there was nothing.
IDLE_S = 1.0

#: Entries looked at in one step of the refresh loop, which must not hold up other greenlets,
#: and the seconds they get when there is more to look at.
_VISITS_PER_STEP = 100
_MORE_TO_DO_S = 0.001


class Resolver(Protocol):
    def ask(self, question: Question, /) -> Answer:
        """Raises LookupFailed."""


class _Flight:
    """A lookup under way; who wants the same key waits for `landed`."""

    __slots__ = ("landed", "outcome")

    def __init__(self, name: str) -> None:
        self.landed = Landing()
        self.outcome: Outcome = LookupFailed(name, "the lookup was broken off")


def normal_key(key: Key) -> Key:
    """Raises ResolutionError for what cannot be looked up."""
    if isinstance(key, str):
        return normal_domain(key)
    if isinstance(key, Host):
        return Host(normal_host(key.name))
    return Chained(normal_domain(key.domain), key.cname_limit)


class Lookups:
    """Outcomes by key.  Usable by any number of threads."""

    def __init__(
        self,
        resolver: Resolver,
        clock: Callable[[], float],
        policy: MXPolicy,
        rng: random.Random,
    ) -> None:
        self._resolver = resolver
        self._clock = clock
        self._policy = policy
        self._rng = rng
        self.rules = policy.rules
        self._outcomes: Cache[Key, Outcome] = Cache(policy.cache_size)
        #: The entry of a key in its usual form, however old.
        self.find = self._outcomes.get
        #: A and AAAA by "KIND name".  Thousands of domains share a few big exchanges: without
        #: this each of them would ask for the same ten addresses.
        #: As plain tuples, of which the collector lets go, which it does not of Answers.
        self._answers: Cache[str, tuple[Any, ...]] = Cache(policy.cache_size)
        self._flights: dict[Key, _Flight] = {}
        self._lock = threading.Lock()
        self._asking = Turns(policy.dns_concurrency)
        #: Counters: lookups, those that failed, failed ones an old outcome stood in for, lookups
        #: made ahead of need, questions asked.
        self.made = 0
        self.failed = 0
        self.stale = 0
        self.refreshed = 0
        self.questions = 0

    def known(self, key: Key) -> Outcome | None:
        """What is remembered, or needs no asking; else None.  Never blocks."""
        entry = self._outcomes.get(key)
        now = self._clock()
        if entry is None:
            try:
                normal = normal_key(key)
            except ResolutionError as error:
                return error
            entry = self._outcomes.get(normal)
            if entry is None:
                return self._known_without_asking(normal)
        entry.used_at = now
        return entry.value if now < entry.expires_at else None

    def get(self, key: Key) -> tuple[Exchange, ...]:
        """From memory or by asking.  Raises ResolutionError."""
        outcome = self.known(key) or self.look_up(normal_key(key))
        if isinstance(outcome, ResolutionError):
            # One instance serves all who ask; without this each raise lengthens its traceback.
            raise outcome.with_traceback(None)
        return outcome

    def look_up(self, key: Key, *, refresh: bool = False) -> Outcome:
        """Ask, or wait for who is asking.  `refresh`: even for what is still good."""
        now = self._clock()
        with self._lock:
            entry = self._outcomes.peek(key)
            if entry is not None and now < entry.expires_at and not refresh:
                return entry.value
            flight = self._flights.get(key)
            mine = flight is None
            if flight is None:
                flight = self._flights[key] = _Flight(key if isinstance(key, str) else key[0])
        if mine:
            return self._fly(key, flight)
        if entry is not None and entry.failing and now < entry.stale_until:
            return entry.value  # the name servers are in trouble: one waits for them, not all
        flight.landed.wait()
        return flight.outcome

    def entries(self) -> Iterator[tuple[Key, Entry[Outcome]]]:
        """What is remembered, the one unused for longest first.  May take its time."""
        for key in self._outcomes.in_order():
            entry = self._outcomes.peek(key)
            if entry is not None:
                yield key, entry

    def forget(self, key: Key) -> bool:
        """Ask anew for `key` and its exchanges; whether there was anything to forget."""
        with self._lock:
            entry = self._outcomes.peek(key)
            if entry is None:
                return False
            names = [e.name for e in entry.value] if isinstance(entry.value, tuple) else []
            for name in names:
                for family in self.rules.families:
                    self._answers.drop(f"{family} {name}")
            self._outcomes.drop(key)
        return True

    def addresses_of(self, name: str) -> frozenset[str]:
        """Every address remembered of the host `name`, however old."""
        address = literal_address(name)
        if address is not None:
            return frozenset((address,))
        answers = (self._answers.peek(f"{family} {name}") for family in self.rules.families)
        known = [Answer._make(answer.value) for answer in answers if answer]
        return frozenset(address for answer in known for address in answer.addresses)

    def tend(self) -> float:
        """Refresh or drop one outcome whose time has come, forget some old answers.

        Returns the seconds to wait before the next step.
        """
        now = self._clock()
        with self._lock:
            for _ in range(_VISITS_PER_STEP):
                if self._answers.next_at() > now:
                    break
                answer = self._answers.next_visit()
                if answer is not None:
                    self._answers.drop(answer)
            key = self._next_to_refresh(now)
            if key is None:
                at = min(self._outcomes.next_at(), self._answers.next_at())
                return IDLE_S if at > now else _MORE_TO_DO_S
        self.refreshed += 1
        self.look_up(key, refresh=True)
        return 1.0 / self._policy.refresh_rate

    def _next_to_refresh(self, now: float) -> Key | None:
        """Visit outcomes until one is in use; drop those of no more use.  Under the lock."""
        for _ in range(_VISITS_PER_STEP):
            if self._outcomes.next_at() > now:
                break
            key = self._outcomes.next_visit()
            entry = self._outcomes.peek(key) if key is not None else None
            if key is None or entry is None:
                continue
            if now >= entry.stale_until:
                self._outcomes.drop(key)
            elif entry.is_in_use():
                return key
            else:
                self._outcomes.visit(key, entry.stale_until)
        return None

    def _known_without_asking(self, key: Key) -> Outcome | None:
        """Address literals and the like come to a conclusion before the first question."""
        resolution = self._resolution(key)
        try:
            next(resolution)
        except StopIteration as done:
            return self._remember(key, done.value)
        except ResolutionError as error:
            return self._remember(key, error)
        return None

    def _fly(self, key: Key, flight: _Flight) -> Outcome:
        try:
            self.made += 1
            flight.outcome = self._remember(key, self._ask_all(self._resolution(key)))
        finally:  # also if this greenlet is killed: others wait for the landing
            with self._lock:
                del self._flights[key]
            flight.landed.land()
        return flight.outcome

    def _resolution(self, key: Key) -> Resolution:
        if isinstance(key, str):
            return resolve(key, self.rules, self._rng)
        if isinstance(key, Host):
            return resolve_host(key.name, self.rules)
        rules = self.rules._replace(cname_limit=key.cname_limit)
        return resolve(key.domain, rules, self._rng)

    def _ask_all(self, resolution: Resolution) -> Resolved | ResolutionError:
        """Answer the questions of `resolution` until it comes to a conclusion."""
        left_s = self._policy.lookup_s

        def ask(question: Question) -> Answer | LookupFailed:
            nonlocal left_s
            answer, took_s = self._answer(question, left_s)
            left_s -= took_s
            return answer

        try:
            return conclude(resolution, ask)
        except ResolutionError as error:
            return error

    def _answer(self, question: Question, left_s: float) -> tuple[Answer | LookupFailed, float]:
        """The answer from memory or a name server, and the seconds it took to ask."""
        name = f"{question.kind} {question.name}"
        entry = self._answers.get(name) if question.kind != "MX" else None
        known = Answer._make(entry.value) if entry is not None else None
        now = self._clock()
        if entry is not None and known is not None:
            left_to_live_s = entry.expires_at - now
            if self._is_long(left_to_live_s, known.ttl_s):
                return known._replace(ttl_s=left_to_live_s), 0.0
        if left_s <= 0:
            return LookupFailed(question.name, "too many slow answers before it"), 0.0
        # Waiting for a turn is not counted: that others ask a lot says nothing about this name.
        with self._asking:
            started = self._clock()
            self.questions += 1
            try:
                answer = self._resolver.ask(question)
            except LookupFailed as failure:
                took_s = self._clock() - started
                if entry is not None and known is not None and now < entry.stale_until:
                    return known._replace(ttl_s=0.0), took_s
                return failure, took_s
        if question.kind != "MX":
            self._remember_answer(name, answer)
        return answer, self._clock() - started

    def _is_long(self, left_s: float, ttl_s: float) -> bool:
        """An answer near its end would make all that is built on it end as soon."""
        policy = self._policy
        return left_s >= max(policy.ttl_min_s, 2 * policy.refresh_ahead * ttl_s)

    def _remember_answer(self, name: str, answer: Answer) -> None:
        policy = self._policy
        longest_s = policy.ttl_max_s if answer.addresses else policy.negative_ttl_max_s
        answer = answer._replace(ttl_s=min(answer.ttl_s, longest_s))
        now = self._clock()
        expires_at = now + answer.ttl_s
        stale_until = expires_at + (policy.stale_on_error_s if answer.addresses else 0.0)
        with self._lock:
            entry = Entry(tuple(answer), now, expires_at, stale_until, stale_until)
            self._answers.put(name, entry)

    def _remember(self, key: Key, result: Resolved | ResolutionError) -> Outcome:
        """Keep `result`, unless it is a failure and there is something better."""
        policy = self._policy
        now = self._clock()
        with self._lock:
            old = self._outcomes.peek(key)
            if isinstance(result, Resolved):
                longest_s = policy.ttl_min_s if result.partial else policy.ttl_max_s
                ttl_s = min(max(result.ttl_s, policy.ttl_min_s), longest_s)
                # Spread over the second half of what is left, or a thousand domains first
                # asked for in one second would be refreshed in one second ever after.
                ahead_s = ttl_s * policy.refresh_ahead * (1.0 - 0.5 * self._rng.random())
                entry = Entry[Outcome](
                    result.exchanges,
                    now,
                    now + ttl_s,
                    now + ttl_s + policy.stale_on_error_s,
                    now + ttl_s - ahead_s,
                    equals(result.exchanges),
                )
            elif result.ttl_s is None:
                self.failed += 1
                if old is not None and self._stands_in(key, old, now):
                    return old.value
                entry = _negative(result, now, policy.failure_ttl_s)
            else:
                ttl_s = max(result.ttl_s, policy.ttl_min_s)
                entry = _negative(result, now, min(ttl_s, policy.negative_ttl_max_s))
            self._outcomes.put(key, entry)
        return entry.value

    def _stands_in(self, key: Key, old: Entry[Outcome], now: float) -> bool:
        """Let `old` serve on while lookups fail, to be tried again soon.  Under the lock."""
        if now >= old.stale_until:  # a "no" is never good for longer than it lives
            return False
        self.stale += 1
        old.failing = True
        good_until = min(now + self._policy.failure_ttl_s, old.stale_until)
        old.expires_at = max(old.expires_at, good_until)
        # Half way, since the loop may be two seconds late: who asks is not to find it expired.
        self._outcomes.visit(key, now + 0.5 * self._policy.failure_ttl_s)
        return True


def equals(exchanges: tuple[Exchange, ...]) -> int:
    """How many are as preferred as the first."""
    best = exchanges[0].preference
    return sum(exchange.preference == best for exchange in exchanges)


def _negative(error: ResolutionError, now: float, ttl_s: float) -> Entry[Outcome]:
    """An error to remember, without the frames it would keep alive."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
    until = now + ttl_s
    return Entry(error, now, until, until, until)
