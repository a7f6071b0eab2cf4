"""How much TLS a delivery demands of its next hop, and what it may do without.  Pure.

    off      never
    may      when the host offers it; nothing is verified (RFC 7435)
    encrypt  or the mail waits; nothing is verified
    verify   or the mail waits; the chain, and the name of the exchange or smart host, must be
             right (RFC 9525).  The name of an exchange is only as good as the DNS it came from.

A host whose TLS is broken must not keep mail that `may` do without for ever, but an attacker
must not have it in the clear for one broken handshake either: only mail that has waited for
FALLBACK_AFTER_S goes so, and never where a password is sent along.
"""

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

OFF, MAY, ENCRYPT, VERIFY = LEVELS = ("off", "may", "encrypt", "verify")

#: Seconds since a message was accepted.  Postfix waits for its minimal_backoff_time, as much.
FALLBACK_AFTER_S = 300.0


class Demand(NamedTuple):
    """What is asked for a destination.  `fallback` says whether `may` includes clear text to
    a host that offers TLS and fails in it."""

    level: str = MAY
    fallback: bool = True


class TlsPolicy(NamedTuple):
    usual: Demand = Demand()
    #: By destination: the recipients' domain as deliveries have it, in lower-case A-labels.
    destinations: Mapping[str, Demand] = MappingProxyType({})

    def demand(self, destination: str) -> Demand:
        return self.destinations.get(destination, self.usual)

    @property
    def verifies(self) -> bool:
        demands = (self.usual, *self.destinations.values())
        return any(demand.level == VERIFY for demand in demands)


class Known(NamedTuple):
    """What is remembered of a host's TLS: that it broke within --tls-broken-ttl, and that it
    failed at the level in question only moments ago."""

    is_broken: bool = False
    just_failed: bool = False


class Way(Enum):
    """How a session with a host is begun."""

    CLEAR = "in the clear, whatever is offered"
    OFFERED = "with TLS if it is offered"
    NEEDED = "with TLS or not at all"
    PUT_OFF = "not now: it would only fail again"


class Kept(NamedTuple):
    """A session that might carry another delivery, and the way it was begun."""

    way: Way
    is_encrypted: bool
    is_verified: bool


def choose(
    demand: Demand, known: Known, waited_s: float, *, implicit: bool, authenticates: bool
) -> Way:
    """The way to a host for a message that was accepted `waited_s` seconds ago.

    `implicit`: its port speaks nothing but TLS (RFC 8314).  `authenticates`: a password will be
    sent.
    """
    is_needed = implicit or demand.level in (ENCRYPT, VERIFY)
    falls_back = known.is_broken and _may_fall_back(demand, waited_s, authenticates)
    if not is_needed and (demand.level == OFF or falls_back):
        return Way.CLEAR
    if known.just_failed:
        return Way.PUT_OFF
    return Way.NEEDED if is_needed else Way.OFFERED


def _may_fall_back(demand: Demand, waited_s: float, authenticates: bool) -> bool:
    return demand.fallback and not authenticates and waited_s >= FALLBACK_AFTER_S


def suits(demand: Demand, kept: Kept, now_in_the_clear: bool) -> bool:
    """Whether a kept session is protected as `demand` asks.

    `now_in_the_clear`: a session begun for this very message would be Way.CLEAR.  One in the
    clear though TLS is offered is for such mail alone.
    """
    if demand.level == VERIFY:
        return kept.is_verified
    if demand.level == ENCRYPT:
        return kept.is_encrypted
    return kept.is_encrypted or kept.way is Way.OFFERED or now_in_the_clear
