"""How the sink treats a client: accept, refuse, greylist, take its time, fail.  No sockets.

Rules of recipients are keyed by a full address or by a domain, both in lower case; an address wins.
"""

from collections.abc import Mapping
from typing import NamedTuple

UNKNOWN_USER = "550 5.1.1 no such mailbox here"
GREYLISTED = "451 4.7.1 greylisted, please come back later"


#: In place of a reply: hang up without one; or take the message, and hang up then.
DROP, TAKEN = "drop", "taken"


class Fault(NamedTuple):
    """What `command` is answered with at times, or DROP, or TAKEN."""

    #: As a key of Behaviour.delays.
    command: str
    reply: str
    #: From 0 to 1.
    odds: float = 1.0
    #: Only where a recipient is of this domain, in lower case; "": everywhere.
    domain: str = ""


class Behaviour(NamedTuple):
    """The rules.  Nothing given: every recipient is accepted at once."""

    #: Recipient or domain → the reply that refuses it.
    refuse: Mapping[str, str] = {}
    #: Recipient or domain → seconds after the first try from which on it is accepted.
    greylist: Mapping[str, float] = {}
    #: Verb in upper case ("DOT" is the end of content, "CONNECT" the greeting) → seconds
    #: before the reply.  Commands that arrive together share the longest of their delays,
    #: as they would share one round trip.
    delays: Mapping[str, float] = {}
    #: Whether it offers PIPELINING; without, each command has a delay of its own.
    pipelining: bool = True
    #: (verb, domain) → seconds, where a recipient is of that domain.
    domain_delays: Mapping[tuple[str, str], float] = {}
    #: The first that applies, and whose odds say so, is what happens.
    faults: tuple[Fault, ...] = ()

    @property
    def judges(self) -> bool:
        """Whether any recipient may fare differently from another."""
        return bool(self.refuse or self.greylist)


class Greylist:
    """When each (reverse-path, recipient) was first seen.  Unix seconds, forgotten never."""

    def __init__(self) -> None:
        self._first_seen: dict[tuple[str, str], float] = {}

    def admits(self, reverse_path: str, recipient: str, delay_s: float, now: float) -> bool:
        first_seen = self._first_seen.setdefault((reverse_path, recipient), now)
        return first_seen != now and now - first_seen >= delay_s


def refusal(
    rules: Behaviour, seen: Greylist, reverse_path: str, recipient: str, now: float
) -> str | None:
    """The reply that turns `recipient` away, or None when it is welcome."""
    address = recipient.lower()
    domain = address.rpartition("@")[2]
    reply = rules.refuse.get(address) or rules.refuse.get(domain)
    if reply:
        return reply
    delay_s = rules.greylist.get(address, rules.greylist.get(domain))
    if delay_s is not None and not seen.admits(reverse_path, address, delay_s, now):
        return GREYLISTED
    return None
