"""TLS and AUTH as all relayers of a manager share them: policy, contexts, memory, credentials."""

import ssl
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from gwrelay.message.outcome import Outcome
from gwrelay.mx.candidates import Candidate
from gwrelay.queue.delivery import Delivery
from gwrelay.relay.tlsmemory import Place, SessionKey, TlsMemory, TlsSessions
from gwrelay.relay.tlspolicy import VERIFY, Demand, Known, TlsPolicy, Way, choose
from gwrelay.smtp.connection import Connection
from gwrelay.smtp.sasl import Credentials
from gwrelay.smtp.tls import client_context

_THREE_DAYS_S = 3 * 86_400.0


class Access(NamedTuple):
    """What is particular to one smart host."""

    #: It speaks TLS from the first byte (RFC 8314 3.3).
    implicit_tls: bool = False
    credentials: Credentials | None = None


_PLAIN_ACCESS = Access()


class Approach(NamedTuple):
    """How a session with one host is begun, for one delivery."""

    place: Place
    exchange: str
    demand: Demand
    access: Access
    waited_s: float
    way: Way
    #: Why it is Way.PUT_OFF.
    failure: Outcome | None = None

    @property
    def session_key(self) -> SessionKey:
        return self.place, self.exchange, self.demand.level == VERIFY

    @property
    def is_clear(self) -> bool:
        return self.way is Way.CLEAR

    def choose(self, known: Known) -> Way:
        return choose(
            self.demand,
            known,
            self.waited_s,
            implicit=self.access.implicit_tls,
            authenticates=self.access.credentials is not None,
        )


class Security:
    """`smarthosts` is by name, as normal_host() has it, and port.

    One context for each way to verify, so that sessions can be resumed.  Raises OSError when
    `ca_file` is no file of certificates.
    """

    def __init__(
        self,
        policy: TlsPolicy | None = None,
        *,
        minimum_version: str = "1.2",
        ca_file: str = "",
        broken_ttl_s: float = _THREE_DAYS_S,
        smarthosts: Mapping[tuple[str, int], Access] = MappingProxyType({}),
        auth_without_tls: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.policy = policy or TlsPolicy()
        self.memory = TlsMemory(clock, broken_ttl_s)
        self.sessions = TlsSessions()
        self.auth_without_tls = auth_without_tls
        self._clock = clock
        self._smarthosts = smarthosts
        self._contexts = {False: client_context(verify=False, minimum=minimum_version)}
        # The system's certificates take their time to load: only where they are wanted.
        if self.policy.verifies or ca_file:
            self._contexts[True] = client_context(
                verify=True, minimum=minimum_version, ca_file=ca_file
            )

    def approach(self, candidate: Candidate, place: Place, delivery: Delivery) -> Approach:
        demand = self.policy.demand(delivery.destination)
        access = self._smarthosts.get((candidate.exchange, candidate.port), _PLAIN_ACCESS)
        waited_s = self._clock() - delivery.arrived_at
        failure = self.memory.failure(place, demand.level)
        known = Known(self.memory.is_broken(place), failure is not None)
        begun = Approach(place, candidate.exchange, demand, access, waited_s, Way.NEEDED, failure)
        return begun._replace(way=begun.choose(known))

    def context(self, demand: Demand) -> ssl.SSLContext:
        return self._contexts[demand.level == VERIFY]

    def note_success(self, approach: Approach, connection: Connection) -> None:
        """A session is ready; nothing is learned of TLS from one in the clear."""
        if not connection.is_encrypted:
            return
        self.memory.note_success(approach.place, approach.demand.level)
        session = connection.tls_session
        if session is not None:
            self.sessions.keep(approach.session_key, session)

    def after_failure(self, approach: Approach, told: Outcome) -> Approach | None:
        """Its TLS failed: remembers that.  How to ask the same host again at once, if at all."""
        self.memory.note_failure(approach.place, approach.demand.level, told)
        self.sessions.drop(approach.session_key)
        again = approach._replace(way=approach.choose(Known(is_broken=True)))
        return again if again.is_clear else None
