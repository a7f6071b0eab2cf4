"""The relayers: each a greenlet's work, owning one session with one host of a site.

A relayer takes deliveries until its site runs dry.  For each it walks the hosts of the
present plan: a host that cannot be reached or greeted is marked bad and the next one is
tried; what a host says about a recipient is an outcome (RFC 5321 5.1).  It knows neither
schedules nor bounces: everything ends at its AttemptManager.

    SMTPManagedRelayer    HELO, no extensions
    ESMTPManagedRelayer   EHLO and what it offers; TLS and AUTH as they are demanded
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gwrelay.errors import AccountingError, ConnectionLost, SessionRefused, StoreFailed
from gwrelay.message import outcome
from gwrelay.message.envelope import Message
from gwrelay.message.outcome import Kind, Outcome
from gwrelay.message.reply import Reply
from gwrelay.mx.candidates import Candidate, Plan
from gwrelay.queue.delivery import Delivery
from gwrelay.relay.attempt import AttemptManager
from gwrelay.relay.security import Approach, Security
from gwrelay.relay.tlsmemory import Place
from gwrelay.relay.tlspolicy import Kept, Way, suits
from gwrelay.smtp import transaction
from gwrelay.smtp.connection import TIMEOUTS_S, Connection
from gwrelay.smtp.sasl import Credentials

logger = logging.getLogger(__name__)

#: RFC 3463 3.4: no host of the destination could be asked at all.
_NO_HOST = Reply(451, "4.4.1", "no host of the destination could be tried")

_BROKEN_OFF = Reply(451, "4.3.2", "broken off by us; will be tried again")


class Mail(Protocol):
    """Where messages are read: the Queue, as far as a relayer needs it."""

    def get_message(self, message_id: int) -> Message: ...
    def get_content(self, message_id: int) -> Iterable[bytes]: ...


class Hosts(Protocol):
    """The hosts of one site as they are now: their plan, and their bad-host marks."""

    def plan(self) -> Plan: ...
    def mark_bad(self, candidate: Candidate) -> None: ...
    def mark_good(self, candidate: Candidate) -> None: ...


@dataclass(frozen=True)
class RelayerSettings:
    """What all relayers of a manager have in common."""

    hostname: str = "localhost"
    timeouts_s: Mapping[str, float] = field(default_factory=lambda: TIMEOUTS_S)
    max_messages_per_connection: int = 100
    recipients_per_message: int = 50
    #: Seconds a session may be used in all.
    connection_lifetime_s: float = 300.0
    #: Seconds a session stays open without mail to carry.
    idle_timeout_s: float = 10.0
    #: Hosts that may refuse the same delivery in one attempt (Postfix: 2).
    max_sessions: int = 2
    #: Bytes of the longest reply that is read to its end.
    reply_max_bytes: int = 64 * 1024
    #: Where exchanges listen that were found by MX.
    smtp_port: int = 25
    #: Our address to connect from; "" leaves it to the system.
    source: str = ""


class ManagedRelayerMixin(ABC):
    """Takes deliveries, keeps a session, tells the attempt manager.

    What a subclass adds is how it introduces itself: `greet`.
    """

    def __init__(
        self, attempts: AttemptManager, hosts: Hosts, mail: Mail, settings: RelayerSettings
    ) -> None:
        self.attempts = attempts
        self._hosts = hosts
        self._mail = mail
        self._settings = settings
        self._connection: Connection | None = None
        #: Verdicts on the delivery in hand so far, and whose is just being asked for.
        self._told: dict[int, Outcome] = {}
        self._batch: Sequence[int] = ()
        #: Set from outside: finish the delivery in hand, then end.
        self.stopping = False

    @abstractmethod
    def greet(self, connection: Connection) -> Reply:
        """Introduce ourselves after the banner.  A reply that is not positive ends it."""

    def connect(self, connection: Connection, candidate: Candidate) -> Reply:
        """The banner."""
        port = candidate.port or self._settings.smtp_port
        return connection.open(candidate.address, port, candidate.exchange)

    def suits(self, connection: Connection, candidate: Candidate) -> bool:
        """Whether a kept session is protected as the delivery in hand demands."""
        return True

    def run(self, delivery: Delivery | None) -> None:
        """Relay `delivery`, then whatever the site has ready, until it runs dry."""
        try:
            while delivery is not None:
                self.relay(delivery)
                delivery = self._next()
        finally:
            try:
                self._break_off()
                self._hang_up()
            finally:
                self.attempts.notify_done(self)

    @property
    def is_past_final_dot(self) -> bool:
        """Whether the message in hand may have been accepted already."""
        connection = self._connection
        return bool(self._batch) and connection is not None and connection.stage == outcome.DOT

    def _break_off(self) -> None:
        """Ended in the middle of a delivery, by a bug or by being stopped: without QUIT, which
        could pass for content.  What is known of it counts; only past the final dot is
        anything in doubt.  When nothing is known it stays in hand."""
        delivery = self.attempts.in_hand
        if delivery is None:
            return
        if self.is_past_final_dot and self._connection is not None:
            lost = ConnectionLost(outcome.DOT, "broken off by us")
            verdict = outcome.of_loss(lost, self._connection.exchange, self._connection.address)
            self._told |= dict.fromkeys(self._batch, verdict)
        self._drop()
        if self._told:
            unknown = outcome.of_ours(outcome.CONNECT, _BROKEN_OFF)
            told = dict.fromkeys(delivery.recipients, unknown) | self._told
            self.attempts.notify_failure(self, delivery, told)

    def relay(self, delivery: Delivery) -> None:
        """One attempt at one delivery, over as many hosts as it takes and is allowed."""
        told = self._told = {}
        self._batch = ()
        self.attempts.take(delivery)
        try:
            message = self._mail.get_message(delivery.message_id)
        except StoreFailed as error:
            self.attempts.notify_failure(self, delivery, _unreadable(delivery.recipients, error))
            return
        unreached: Outcome | None = None
        sessions = 0
        for candidate in self._candidates():
            pending = [n for n in delivery.recipients if _may_ask_another(told.get(n))]
            if not pending or sessions == self._settings.max_sessions:
                break
            passed_over = self._over(candidate, message, pending)
            if passed_over is None:
                sessions += 1
            else:
                unreached = passed_over
        self._notify(delivery, told, unreached or outcome.of_ours(outcome.CONNECT, _NO_HOST))

    def _notify(self, delivery: Delivery, told: Mapping[int, Outcome], unreached: Outcome) -> None:
        if not told:
            self.attempts.notify_no_connection(self, delivery, unreached)
        elif all(verdict.kind is Kind.DELIVERED for verdict in told.values()):
            self.attempts.notify_success(self, delivery, told)
        else:
            self.attempts.notify_failure(self, delivery, told)

    def _next(self) -> Delivery | None:
        if self.stopping:
            return None
        kept = self._connection is not None and self._may_be_kept(self._connection)
        return self.attempts.site.take(self._settings.idle_timeout_s if kept else 0.0)

    def _candidates(self) -> Sequence[Candidate]:
        """The present plan; the session we have goes first if its host is as good as any."""
        candidates = self._hosts.plan().candidates
        current = self._connection
        if current is None:
            return candidates
        for candidate in candidates:
            if candidate.preference != candidates[0].preference:
                break
            if self._leads_to(current, candidate):
                return (candidate, *(c for c in candidates if c is not candidate))
        return candidates

    def _over(
        self, candidate: Candidate, message: Message, pending: Sequence[int]
    ) -> Outcome | None:
        """Ask this host about the `pending` recipients; or say why it cannot be used."""
        waiting = list(pending)
        while waiting:
            batch = waiting[: self._settings.recipients_per_message]
            self._batch = batch
            answer = self._transact(candidate, message, batch)
            self._batch = ()
            if isinstance(answer, Outcome):
                if len(waiting) == len(pending):
                    return answer
                self._told |= dict.fromkeys(waiting, answer)
                return None
            again = _too_many_at_once(batch, answer)
            waiting = again + waiting[len(batch) :]
            self._told |= {n: answer[n] for n in batch if n not in again}
        return None

    def _transact(
        self, candidate: Candidate, message: Message, batch: Sequence[int]
    ) -> dict[int, Outcome] | Outcome:
        """One transaction.  A kept session found broken is replaced once, at no charge."""
        envelope = message.envelope
        sending = transaction.Transaction(
            envelope,
            [envelope.recipients[n] for n in batch],
            message.size_bytes,
            self._mail.get_content(message.id),
        )
        while True:
            connection = self._session(candidate)
            if isinstance(connection, Outcome):
                return connection
            was_kept = connection.transactions > 0
            try:
                told = transaction.send(connection, sending)
            except ConnectionLost as lost:
                self._drop()
                if was_kept:
                    continue
                verdict = outcome.of_loss(lost, candidate.exchange, candidate.address)
                return dict.fromkeys(batch, verdict)
            except StoreFailed as error:
                # Half of the content may be out: only breaking off keeps the other end
                # from taking it for the whole.
                self._drop()
                return _unreadable(batch, error)
            self._hosts.mark_good(candidate)
            if connection.tls:
                told = [verdict._replace(tls=connection.tls) for verdict in told]
            return dict(zip(batch, told, strict=True))

    def _leads_to(self, connection: Connection, candidate: Candidate) -> bool:
        port = candidate.port or self._settings.smtp_port
        return connection.address == candidate.address and connection.port == port

    def _session(self, candidate: Candidate) -> Connection | Outcome:
        """The session we have, if it may carry another message there, or a new one."""
        current = self._connection
        if current is not None:
            if (
                self._leads_to(current, candidate)
                and self._may_be_kept(current)
                and self.suits(current, candidate)
                and current.is_quiet()
            ):
                return current
            self._hang_up()
        return self._open(candidate)

    def _may_be_kept(self, connection: Connection) -> bool:
        """Whether it may carry another message, as far as we are concerned."""
        settings = self._settings
        return (
            not connection.spoiled
            and connection.is_open
            and connection.transactions < settings.max_messages_per_connection
            and connection.age_s < settings.connection_lifetime_s
        )

    def _open(self, candidate: Candidate) -> Connection | Outcome:
        """Connect and greet."""
        settings = self._settings
        connection = Connection(
            settings.hostname,
            timeouts_s=settings.timeouts_s,
            reply_max_bytes=settings.reply_max_bytes,
            source=settings.source,
        )
        self._connection = connection
        try:
            reply = self.connect(connection, candidate)
            if reply.is_positive:
                reply = self.greet(connection)
            if reply.is_positive:
                return connection
            told = outcome.of_reply(connection.stage, reply, candidate.exchange, candidate.address)
        except ConnectionLost as lost:
            told = outcome.of_loss(lost, candidate.exchange, candidate.address)
        logger.info("%s[%s]: %s", candidate.exchange, candidate.address, told.reply)
        if _condemns(told):
            self._hosts.mark_bad(candidate)
        self._hang_up()
        return told

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.quit()
            self._connection = None

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class SMTPManagedRelayer(ManagedRelayerMixin):
    """HELO, and nothing that RFC 821 did not know."""

    def greet(self, connection: Connection) -> Reply:
        return connection.helo()


class ESMTPManagedRelayer(ManagedRelayerMixin):
    """EHLO, then TLS as the policy has it for the delivery in hand, then AUTH with a smart host
    that we have credentials for."""

    def __init__(
        self,
        attempts: AttemptManager,
        hosts: Hosts,
        mail: Mail,
        settings: RelayerSettings,
        security: Security,
    ) -> None:
        super().__init__(attempts, hosts, mail, settings)
        self._security = security
        #: How the session we have was begun, or is being begun.
        self._approach: Approach | None = None

    def suits(self, connection: Connection, candidate: Candidate) -> bool:
        begun, delivery = self._approach, self.attempts.in_hand
        if begun is None or delivery is None:
            return False
        demand = self._security.policy.demand(delivery.destination)
        # Nearly always: one more of the same, through what was begun for it.
        if demand == begun.demand and candidate.exchange == begun.exchange and not begun.is_clear:
            return True
        wanted = self._approach_to(candidate)
        if begun.access != wanted.access:
            return False
        is_verified = connection.is_verified and connection.exchange == candidate.exchange
        kept = Kept(begun.way, connection.is_encrypted, is_verified)
        return suits(demand, kept, wanted.is_clear)

    def _approach_to(self, candidate: Candidate) -> Approach:
        delivery = self.attempts.in_hand
        if delivery is None:
            raise AccountingError("a session is asked for without a delivery")
        port = candidate.port or self._settings.smtp_port
        place = Place(self._settings.source, candidate.address, port)
        return self._security.approach(candidate, place, delivery)

    def _open(self, candidate: Candidate) -> Connection | Outcome:
        """A host whose TLS fails is asked again in the clear, where the policy lets this mail."""
        approach = self._approach_to(candidate)
        if approach.way is Way.PUT_OFF and approach.failure is not None:
            return approach.failure
        opened = self._begin(approach, candidate)
        if isinstance(opened, Connection) or not _is_tls_failure(opened):
            return opened
        again = self._security.after_failure(approach, opened)
        if again is None:
            return opened
        logger.warning("%s[%s]: mail goes in the clear", candidate.exchange, candidate.address)
        return self._begin(again, candidate)

    def _begin(self, approach: Approach, candidate: Candidate) -> Connection | Outcome:
        self._approach = approach
        opened = super()._open(candidate)
        if isinstance(opened, Connection):
            self._security.note_success(approach, opened)
        return opened

    def connect(self, connection: Connection, candidate: Candidate) -> Reply:
        approach = self._begun()
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
        credentials = self._begun().access.credentials
        if reply.is_positive and credentials is not None:
            reply = self._log_in(connection, credentials)
        return reply

    def _encrypt(self, connection: Connection, reply: Reply) -> Reply:
        """`reply` is what stands when there is nothing to do."""
        approach = self._begun()
        if approach.way is Way.CLEAR:
            return reply
        if approach.way is Way.OFFERED and not connection.offers("starttls"):
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

    def _begun(self) -> Approach:
        if self._approach is None:
            raise AccountingError("no session was begun")
        return self._approach


class SMTPManagedRelayerFactory:
    """Builds the relayers of a manager: one for each session it wants."""

    def __init__(self, settings: RelayerSettings | None = None) -> None:
        self.settings = settings or RelayerSettings()

    def build_relayer(
        self, attempts: AttemptManager, hosts: Hosts, mail: Mail
    ) -> ManagedRelayerMixin:
        return SMTPManagedRelayer(attempts, hosts, mail, self.settings)


class ESMTPManagedRelayerFactory(SMTPManagedRelayerFactory):
    """`security` None: TLS where it is offered, and no AUTH."""

    def __init__(
        self, settings: RelayerSettings | None = None, *, security: Security | None = None
    ) -> None:
        super().__init__(settings)
        self._security = security or Security()

    def build_relayer(
        self, attempts: AttemptManager, hosts: Hosts, mail: Mail
    ) -> ManagedRelayerMixin:
        return ESMTPManagedRelayer(attempts, hosts, mail, self.settings, self._security)


def _condemns(told: Outcome) -> bool:
    """Whether a host that gave no session is marked bad: when it cannot be reached, or says
    "not now", or takes our password for wrong, which each further try would only make worse.

    One that says "never" is alive, and only passed over (RFC 5321 3.1); one whose TLS fails may
    do well for other mail.
    """
    if told.stage == outcome.AUTH:
        return True
    return not told.reply.is_permanent and not _is_tls_failure(told)


def _is_tls_failure(told: Outcome) -> bool:
    """421 is the word of a host that closes, at this stage as at any other."""
    return told.stage == outcome.STARTTLS and not (told.heard and told.reply.code == 421)


def _may_ask_another(verdict: Outcome | None) -> bool:
    """Whether another host may be asked about this recipient in the same attempt.

    Not when it is in doubt: another host would surely deliver it a second time.
    """
    return verdict is None or (verdict.kind is Kind.DEFERRED and not verdict.in_doubt)


def _too_many_at_once(batch: Sequence[int], told: Mapping[int, Outcome]) -> list[int]:
    """Those refused only for being too many in one transaction: they go in the next one, at
    once (RFC 5321 4.5.3.1.10), provided that this one took some."""
    refused = [n for n in batch if told[n].reply.code == 452 and told[n].reply.status == "4.5.3"]
    refused = [n for n in refused if told[n].stage == outcome.RCPT]
    return refused if len(refused) < len(batch) else []


def _unreadable(recipients: Iterable[int], error: StoreFailed) -> dict[int, Outcome]:
    reply = Reply(451, "4.3.0", f"the spooled message cannot be read: {error}")
    return dict.fromkeys(recipients, outcome.of_ours(outcome.CONTENT, reply))
