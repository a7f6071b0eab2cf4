"""The hosts that mail is carried to: of a destination, and of a site at this moment.

Brings routes and MXCalculator together.  A smart host is looked up by its addresses,
never by MX, and its failures only ever defer mail.
"""

from collections import Counter
from collections.abc import Callable, Hashable
from itertools import groupby
from operator import attrgetter

from msgspec.structs import replace

from gwrelay.message.outcome import Outcome
from gwrelay.mx.calculator import MXCalculator
from gwrelay.mx.candidates import Candidate, Plan
from gwrelay.mx.exchanges import Exchange
from gwrelay.mx.failures import ResolutionError
from gwrelay.relay.routes import NextHop, Routes

Exchanges = tuple[Exchange, ...]

# What makes one site of several destinations: that they have the same exchanges; that they go to
# the same smart hosts; nothing, each is one of its own.
MX, DOMAIN, OFF = "mx", "domain", "off"


class Destinations:
    """Which exchanges a destination has: the same few smart hosts for all, or its own; and which
    site that makes it part of."""

    def __init__(self, calculator: MXCalculator, routes: Routes, rollup: str = MX) -> None:
        self._calculator = calculator
        self._smarthosts = routes.smarthosts
        self._is_shared = rollup == MX or (rollup == DOMAIN and bool(routes.smarthosts))
        #: What was known of the smart hosts the last time, and what that comes to.
        self._known: list[Exchanges | ResolutionError | None] = []
        self._in_use: Exchanges | ResolutionError = ()

    def site_key(self, destination: str, exchanges: Exchanges) -> Hashable:
        """Of the site of `destination`, which has these."""
        return site_key(exchanges) if self._is_shared else destination

    def cached(self, destination: str) -> Exchanges | ResolutionError | None:
        """What is known without asking DNS; None when it must be asked.  Never blocks."""
        if not self._smarthosts:
            return self._calculator.cached(destination)
        known = [self._calculator.cached_host(hop.name) for hop in self._smarthosts]
        if None in known:
            return None
        if known != self._known:
            self._in_use = self._in_order([found for found in known if found is not None])
            self._known = known
        return self._in_use

    def find(self, destination: str) -> Exchanges | ResolutionError:
        """Likewise, asking DNS where it must."""
        if not self._smarthosts:
            return self._ask(destination)
        return self._in_order([self._ask_host(hop) for hop in self._smarthosts])

    def _ask(self, destination: str) -> Exchanges | ResolutionError:
        try:
            return self._calculator.get_exchanges(destination)
        except ResolutionError as error:
            return error

    def _ask_host(self, hop: NextHop) -> Exchanges | ResolutionError:
        try:
            return self._calculator.get_host(hop.name)
        except ResolutionError as error:
            return error

    def _in_order(self, found: list[Exchanges | ResolutionError]) -> Exchanges | ResolutionError:
        """The smart hosts that have addresses, preferred as they were given."""
        exchanges = [
            replace(host[0], preference=n, port=hop.port)
            for n, (hop, host) in enumerate(zip(self._smarthosts, found, strict=True))
            if not isinstance(host, ResolutionError)
        ]
        if exchanges:
            return tuple(exchanges)
        return next(error for error in found if isinstance(error, ResolutionError))


class SiteHosts:
    """One site's exchanges as last looked up, the bad-host marks of their addresses, and how
    many sessions each has that carry mail."""

    def __init__(self, calculator: MXCalculator, source: str) -> None:
        self.exchanges: Exchanges = ()
        self._calculator = calculator
        self._source = source
        self._sessions: Counter[tuple[str, int]] = Counter()
        #: Called for each session that a relayer opens beside its first.
        self.on_connection: Callable[[], None] = _nobody_counts

    def note_connection(self) -> None:
        """A relayer opens a session beside its first."""
        self.on_connection()

    def plan(self) -> Plan:
        return self._calculator.plan(self.exchanges, self._source)

    @property
    def all_marked_until(self) -> float:
        """0.0 as long as one address bears no mark; see Plan."""
        return self._calculator.all_marked_until(self.exchanges, self._source)

    @property
    def why_bad(self) -> str:
        """How a session with one of the hosts failed, of this worker or another; "": not known."""
        return self._calculator.why_bad(self.exchanges, self._source)

    def find(self, address: str, port: int) -> Candidate | None:
        """This address, marked or not; None when it is no longer an exchange's."""
        for exchange in self.exchanges:
            if exchange.port == port and address in exchange.addresses:
                return Candidate(exchange.name, address, port, exchange.preference)
        return None

    def find_best(self, like: Candidate) -> Candidate | None:
        """The address of `like`, of the same exchange if that has it still, as long as it bears
        no mark and none without a mark is preferred to it.

        Asks about all addresses, where a plan has but some of many equal ones.
        """
        for _, equals in groupby(self.exchanges, attrgetter("preference")):
            best = tuple(equals)
            if self._are_bad(best):
                continue
            here = [
                Candidate(e.name, like.address, e.port, e.preference)
                for e in best
                if e.port == like.port
                and like.address in e.addresses
                and not self._are_bad((replace(e, addresses=(like.address,)),))
            ]
            here.sort(key=lambda candidate: candidate.exchange != like.exchange)
            return here[0] if here else None
        return None

    def _are_bad(self, exchanges: Exchanges) -> bool:
        """Whether all their addresses are marked."""
        return self._calculator.all_marked_until(exchanges, self._source) > 0.0

    def mark_bad(self, candidate: Candidate, why: Outcome) -> None:
        """No session with `candidate` came about; `why` is how it ended.

        A host that says "not now" to one session while it serves another is alive: it only has
        enough of them (semantics.md 1.7).
        """
        if not (why.heard and self._sessions[_place(candidate)]):
            self._calculator.mark_address_bad(
                candidate.address, self._source, candidate.port, str(why.reply)
            )

    def mark_good(self, candidate: Candidate) -> None:
        self._calculator.mark_address_good(candidate.address, self._source, candidate.port)

    def add_session(self, candidate: Candidate) -> None:
        """A session with `candidate` has answered MAIL."""
        self._sessions[_place(candidate)] += 1

    def remove_session(self, candidate: Candidate) -> None:
        """One that add_session() was called for has ended."""
        self._sessions[_place(candidate)] -= 1
        if not self._sessions[_place(candidate)]:
            del self._sessions[_place(candidate)]

    @property
    def sessions(self) -> int:
        """With any host of the site, carrying mail or idle after that."""
        return self._sessions.total()


def _nobody_counts() -> None:
    """There is no limit."""


def _place(candidate: Candidate) -> tuple[str, int]:
    return candidate.address, candidate.port


def site_key(exchanges: Exchanges) -> Hashable:
    """Equal for destinations that share exchanges in the same order of preference.

    What they call the preferences (5 and 10, or 10 and 20) does not matter.
    """
    if len(exchanges) == 1:
        return exchanges[0].name, exchanges[0].port
    ranks = {p: n for n, p in enumerate(sorted({e.preference for e in exchanges}))}
    return frozenset((ranks[e.preference], e.name, e.port) for e in exchanges)
