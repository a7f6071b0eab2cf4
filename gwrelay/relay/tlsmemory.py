"""What is remembered of TLS with hosts: whose is broken, and what shortens a handshake.

Keyed by our source and the host's address and port, like bad-host marks, and apart from them:
a host that fails in TLS may do well for mail that needs none.
"""

import ssl
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from gwrelay.message.outcome import Outcome
from gwrelay.relay.tlspolicy import MAY

#: Seconds a host is left alone at the level it failed at: its mail of that level then goes to
#: the next host, or waits, without a handshake for each message.
HOLD_S = 30.0

#: Sessions kept to be resumed, each a few KiB with the certificates of its host.
MAX_SESSIONS = 1000


class Place(NamedTuple):
    """Where TLS was tried: from `source` ("" is the system's choice) to an address and port."""

    source: str
    address: str
    port: int


class TlsMemory:
    """`clock` gives seconds; its beginning does not matter."""

    def __init__(self, clock: Callable[[], float], broken_ttl_s: float) -> None:
        self._clock = clock
        self._broken_ttl_s = broken_ttl_s
        self._broken_until: dict[Place, float] = {}
        self._failed: dict[tuple[Place, str], tuple[float, Outcome]] = {}
        self._sweep_above = 1024

    def __len__(self) -> int:
        return len(self._broken_until) + len(self._failed)

    def is_broken(self, place: Place) -> bool:
        return self._broken_until.get(place, 0.0) > self._clock()

    def failure(self, place: Place, level: str) -> Outcome | None:
        """How it failed at `level` within HOLD_S; None when it did not."""
        failed = self._failed.get((place, level))
        return failed[1] if failed is not None and failed[0] > self._clock() else None

    def note_failure(self, place: Place, level: str, told: Outcome) -> None:
        """It is broken when not even `may` is content; failing at a higher level may just say
        that the certificate is wrong, or that there is no TLS at all."""
        now = self._clock()
        self._failed[place, level] = now + HOLD_S, told
        if level == MAY:
            self._broken_until[place] = now + self._broken_ttl_s
        if len(self) > self._sweep_above:
            self._forget(now)
            self._sweep_above = max(1024, 2 * len(self))

    def note_success(self, place: Place, level: str) -> None:
        """A handshake at `level` went well."""
        if self._failed or self._broken_until:
            self._broken_until.pop(place, None)
            self._failed.pop((place, level), None)

    def _forget(self, now: float) -> None:
        self._broken_until = {k: until for k, until in self._broken_until.items() if until > now}
        self._failed = {k: failed for k, failed in self._failed.items() if failed[0] > now}


#: Who was spoken to, as what, and whether that was verified: a session that was not must never
#: stand in for one that is.
SessionKey = tuple[Place, str, bool]


class TlsSessions:
    """TLS sessions to resume (RFC 8446 2.2), those used last; one for each key."""

    def __init__(self, limit: int = MAX_SESSIONS) -> None:
        self._limit = limit
        self._sessions: OrderedDict[SessionKey, ssl.SSLSession] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, key: SessionKey) -> ssl.SSLSession | None:
        if key in self._sessions:
            self._sessions.move_to_end(key)
        return self._sessions.get(key)

    def keep(self, key: SessionKey, session: ssl.SSLSession) -> None:
        self._sessions[key] = session
        self._sessions.move_to_end(key)
        if len(self._sessions) > self._limit:
            self._sessions.popitem(last=False)

    def drop(self, key: SessionKey) -> None:
        """It may be the reason why a handshake failed."""
        self._sessions.pop(key, None)
