"""How a relayer begins its sessions: banner, HELO or EHLO, TLS, AUTH.

A greeting belongs to one relayer and is used for one session after the other:

    prepare()   for a host and the delivery in hand; an Outcome says why it is no use to try
    connect()   then greet(), unless a reply is not positive or the connection is lost
    succeeded() or failed(); True of the latter: prepared for another way, try the same host again
    suits()     whether the session may carry another delivery
"""

import logging
from abc import ABC, abstractmethod

from gwrelay.errors import AccountingError, ConnectionLost, SessionRefused
from gwrelay.message import outcome
from gwrelay.message.outcome import Outcome
from gwrelay.message.reply import Reply
from gwrelay.mx.candidates import Candidate
from gwrelay.queue.delivery import Delivery
from gwrelay.relay.security import Approach, Security
from gwrelay.relay.tlsmemory import Place
from gwrelay.relay.tlspolicy import Kept, Way, suits
from gwrelay.smtp.connection import Connection
from gwrelay.smtp.sasl import Credentials

logger = logging.getLogger(__name__)


class Greeting(ABC):
    """`port` is where exchanges listen that were found by MX; `source` our own address."""

    def __init__(self, source: str, port: int) -> None:
        self._source = source
        self._port = port

    def prepare(self, candidate: Candidate, delivery: Delivery) -> Outcome | None:
        return None

    def connect(self, connection: Connection, candidate: Candidate) -> Reply:
        """The banner."""
        return connection.open(candidate.address, candidate.port or self._port, candidate.exchange)

    @abstractmethod
    def greet(self, connection: Connection) -> Reply:
        """Introduce ourselves after the banner.  A reply that is not positive ends it."""

    def succeeded(self, connection: Connection) -> None:
        return None

    def failed(self, candidate: Candidate, told: Outcome) -> bool:
        return False

    def suits(self, connection: Connection, candidate: Candidate, delivery: Delivery) -> bool:
        return True


class PlainGreeting(Greeting):
    """HELO, and nothing that RFC 821 did not know."""

    def greet(self, connection: Connection) -> Reply:
        return connection.helo()


class SecureGreeting(Greeting):
    """EHLO, then TLS as the policy has it for the delivery, then AUTH with a smart host that we
    have credentials for."""

    def __init__(self, source: str, port: int, security: Security) -> None:
        super().__init__(source, port)
        self._security = security
        #: How the session we have was begun, or is being begun.
        self._approach: Approach | None = None

    def prepare(self, candidate: Candidate, delivery: Delivery) -> Outcome | None:
        approach = self._approach = self._approach_to(candidate, delivery)
        return approach.failure if approach.way is Way.PUT_OFF else None

    def connect(self, connection: Connection, candidate: Candidate) -> Reply:
        approach = self._prepared()
        if not approach.access.implicit_tls:
            return super().connect(connection, candidate)
        return connection.open(
            candidate.address,
            candidate.port,
            candidate.exchange,
            implicit_tls=self._security.context(approach.demand),
            tls_session=self._security.sessions.get(approach.session_key),
        )

    def greet(self, connection: Connection) -> Reply:
        reply = connection.ehlo()
        if reply.is_permanent:
            # RFC 5321 3.2: a server that knows no EHLO gets HELO.
            reply = connection.helo()
        if reply.is_positive and not connection.is_encrypted:
            reply = self._encrypt(connection, reply)
        credentials = self._prepared().access.credentials
        if reply.is_positive and credentials is not None:
            reply = self._log_in(connection, credentials)
        return reply

    def _encrypt(self, connection: Connection, reply: Reply) -> Reply:
        """`reply` is what stands when there is nothing to do."""
        approach = self._prepared()
        is_offered = connection.offers("starttls")
        if approach.is_clear or (approach.way is Way.OFFERED and not is_offered):
            return reply
        context = self._security.context(approach.demand)
        reply = connection.starttls(context, self._security.sessions.get(approach.session_key))
        if not reply.is_positive:
            return reply
        try:
            return connection.ehlo()
        except ConnectionLost as lost:
            # Some stall or break only here; the host as such is well.
            reason = f"{lost.reason} after the handshake"
            raise ConnectionLost(outcome.STARTTLS, reason, "4.7.5") from lost

    def _log_in(self, connection: Connection, credentials: Credentials) -> Reply:
        if not connection.is_encrypted and not self._security.auth_without_tls:
            reason = "AUTH needs TLS: a password is not sent in the clear"
            raise SessionRefused(outcome.AUTH, reason, "4.7.11")
        return connection.login(credentials)

    def succeeded(self, connection: Connection) -> None:
        self._security.note_success(self._prepared(), connection)

    def failed(self, candidate: Candidate, told: Outcome) -> bool:
        """A host whose TLS fails is asked again in the clear, where the policy lets this mail."""
        if not is_tls_failure(told):
            return False
        again = self._security.after_failure(self._prepared(), told)
        if again is None:
            return False
        logger.warning("%s[%s]: mail goes in the clear", candidate.exchange, candidate.address)
        self._approach = again
        return True

    def suits(self, connection: Connection, candidate: Candidate, delivery: Delivery) -> bool:
        """Whether it is protected as `delivery` demands, for this exchange and as this user."""
        begun = self._approach or self._prepared()
        demand = self._security.policy.demand(delivery.destination)
        # Nearly always: one more of the same, through what was begun for it.
        if (
            demand == begun.demand
            and candidate.exchange == begun.exchange
            and begun.way is not Way.CLEAR
        ):
            return True
        wanted = self._approach_to(candidate, delivery)
        if begun.access != wanted.access:
            return False
        is_verified = connection.is_verified and connection.exchange == candidate.exchange
        kept = Kept(begun.way, connection.is_encrypted, is_verified)
        return suits(demand, kept, wanted.is_clear)

    def _approach_to(self, candidate: Candidate, delivery: Delivery) -> Approach:
        place = Place(self._source, candidate.address, candidate.port or self._port)
        return self._security.approach(candidate, place, delivery)

    def _prepared(self) -> Approach:
        if self._approach is None:
            raise AccountingError("no session was prepared")
        return self._approach


def is_tls_failure(told: Outcome) -> bool:
    """421 is the word of a host that closes, at this stage as at any other."""
    return told.stage == outcome.STARTTLS and not (told.heard and told.reply.code == 421)
