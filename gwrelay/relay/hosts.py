"""The hosts that mail is carried to: of a destination, and of a site at this moment.

Brings routes and MXCalculator together.  A smart host is looked up by its addresses,
never by MX, and its failures only ever defer mail.
"""

from collections.abc import Hashable

from gwrelay.mx.calculator import MXCalculator
from gwrelay.mx.candidates import Candidate, Plan
from gwrelay.mx.exchanges import Exchange
from gwrelay.mx.failures import ResolutionError
from gwrelay.relay.routes import NextHop, Routes

Exchanges = tuple[Exchange, ...]


class Destinations:
    """Which exchanges a destination has: the same few smart hosts for all, or its own."""

    def __init__(self, calculator: MXCalculator, routes: Routes) -> None:
        self._calculator = calculator
        self._smarthosts = routes.smarthosts

    def cached(self, destination: str) -> Exchanges | ResolutionError | None:
        """What is known without asking DNS; None when it must be asked.  Never blocks."""
        if not self._smarthosts:
            return self._calculator.cached(destination)
        known = [self._calculator.cached_host(hop.name) for hop in self._smarthosts]
        if None in known:
            return None
        return self._in_order([found for found in known if found is not None])

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
            host[0]._replace(preference=n, port=hop.port)
            for n, (hop, host) in enumerate(zip(self._smarthosts, found, strict=True))
            if not isinstance(host, ResolutionError)
        ]
        if exchanges:
            return tuple(exchanges)
        return next(error for error in found if isinstance(error, ResolutionError))


class SiteHosts:
    """One site's exchanges as last looked up, and the bad-host marks of their addresses."""

    def __init__(self, calculator: MXCalculator, source: str) -> None:
        self.exchanges: Exchanges = ()
        self._calculator = calculator
        self._source = source

    def plan(self) -> Plan:
        return self._calculator.plan(self.exchanges, self._source)

    def find(self, address: str, port: int) -> Candidate | None:
        """This address, marked or not; None when it is no longer an exchange's."""
        for exchange in self.exchanges:
            if exchange.port == port and address in exchange.addresses:
                return Candidate(exchange.name, address, port, exchange.preference)
        return None

    def is_bad(self, candidate: Candidate) -> bool:
        address, port = candidate.address, candidate.port
        return self._calculator.bad_until(address, self._source, port) > 0.0

    def mark_bad(self, candidate: Candidate) -> None:
        self._calculator.mark_address_bad(candidate.address, self._source, candidate.port)

    def mark_good(self, candidate: Candidate) -> None:
        self._calculator.mark_address_good(candidate.address, self._source, candidate.port)


def site_key(exchanges: Exchanges) -> Hashable:
    """Equal for destinations that share exchanges in the same order of preference.

    What they call the preferences (5 and 10, or 10 and 20) does not matter.
    """
    if len(exchanges) == 1:
        return exchanges[0].name, exchanges[0].port
    ranks = {p: n for n, p in enumerate(sorted({e.preference for e in exchanges}))}
    return frozenset((ranks[e.preference], e.name, e.port) for e in exchanges)
