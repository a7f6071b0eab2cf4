"""The relayers: each a greenlet's work, owning one session with one host of a site.

A relayer takes deliveries until its site runs dry.  For each it walks the hosts of the
present plan: a host that cannot be reached or greeted is marked bad and the next one is
tried; what a host says about a recipient is an outcome (RFC 5321 5.1).  It knows neither
schedules nor bounces: everything ends at its AttemptManager.

    SMTPManagedRelayer    HELO, no extensions
    ESMTPManagedRelayer   EHLO and what it offers; TLS and AUTH as they are demanded
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gwrelay.errors import AccountingError, ConnectionLost, StoreDamaged, StoreFailed
from gwrelay.message import outcome
from gwrelay.message.envelope import Message
from gwrelay.message.outcome import Kind, Outcome
from gwrelay.message.reply import Reply
from gwrelay.mx.candidates import Candidate, Plan
from gwrelay.queue.delivery import Delivery
from gwrelay.relay.attempt import AttemptManager
from gwrelay.relay.greeting import Greeting, PlainGreeting, SecureGreeting, condemns
from gwrelay.relay.security import Security
from gwrelay.smtp import transaction
from gwrelay.smtp.connection import TIMEOUTS_S, Connection

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
    def mark_bad(self, candidate: Candidate, why: Outcome) -> None: ...
    def mark_good(self, candidate: Candidate) -> None: ...
    def add_session(self, candidate: Candidate) -> None: ...
    def remove_session(self, candidate: Candidate) -> None: ...


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


class ManagedRelayerMixin:
    """Takes deliveries, keeps a session, tells the attempt manager.

    What a subclass adds is how it introduces itself: its `greeting`.
    """

    def __init__(
        self,
        attempts: AttemptManager,
        hosts: Hosts,
        mail: Mail,
        settings: RelayerSettings,
        greeting: Greeting,
    ) -> None:
        self.attempts = attempts
        self._hosts = hosts
        self._mail = mail
        self._settings = settings
        self._greeting = greeting
        self._connection: Connection | None = None
        #: Whose host has answered MAIL in the present session.
        self._at_work: Candidate | None = None
        #: Verdicts on the delivery in hand so far, and whose is just being asked for.
        self._told: dict[int, Outcome] = {}
        self._batch: Sequence[int] = ()
        #: Set from outside: finish the delivery in hand, then end.
        self.stopping = False

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
            if self._at_work is None:
                self._at_work = candidate
                self._hosts.add_session(candidate)
            return dict(zip(batch, told, strict=True))

    def _leads_to(self, connection: Connection, candidate: Candidate) -> bool:
        port = candidate.port or self._settings.smtp_port
        return connection.address == candidate.address and connection.port == port

    def _session(self, candidate: Candidate) -> Connection | Outcome:
        """The session we have, if it may carry another message there, or a new one."""
        current, delivery = self._connection, self.attempts.in_hand
        if delivery is None:
            raise AccountingError("a session is asked for without a delivery")
        if current is not None:
            if (
                self._leads_to(current, candidate)
                and self._may_be_kept(current)
                and self._greeting.suits(current, candidate, delivery)
                and current.is_quiet()
            ):
                return current
            self._hang_up()
        no_use = self._greeting.prepare(candidate, delivery)
        return no_use or self._open(candidate)

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
        """Connect and greet, and when there is another way for the same host, that way."""
        opened = self._begin(candidate)
        while isinstance(opened, Outcome) and self._greeting.failed(candidate, opened):
            opened = self._begin(candidate)
        return opened

    def _begin(self, candidate: Candidate) -> Connection | Outcome:
        settings = self._settings
        connection = self._connection = Connection(
            settings.hostname,
            timeouts_s=settings.timeouts_s,
            reply_max_bytes=settings.reply_max_bytes,
            source=settings.source,
        )
        ours = False
        try:
            reply = self._greeting.connect(connection, candidate)
            if reply.is_positive:
                reply = self._greeting.greet(connection)
            if reply.is_positive:
                self._greeting.succeeded(connection)
                return connection
            told = outcome.of_reply(connection.stage, reply, candidate.exchange, candidate.address)
        except ConnectionLost as lost:
            told = outcome.of_loss(lost, candidate.exchange, candidate.address)
            ours = lost.ours
        logger.info("%s[%s]: %s", candidate.exchange, candidate.address, told.reply)
        if condemns(told) and not ours:
            self._hosts.mark_bad(candidate, told)
        self._hang_up()
        return told

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.quit()
        self._forget_session()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._forget_session()

    def _forget_session(self) -> None:
        self._connection = None
        if self._at_work is not None:
            self._hosts.remove_session(self._at_work)
            self._at_work = None


class SMTPManagedRelayer(ManagedRelayerMixin):
    """HELO, and nothing that RFC 821 did not know."""

    def __init__(
        self, attempts: AttemptManager, hosts: Hosts, mail: Mail, settings: RelayerSettings
    ) -> None:
        greeting = PlainGreeting(settings.source, settings.smtp_port)
        super().__init__(attempts, hosts, mail, settings, greeting)


class ESMTPManagedRelayer(ManagedRelayerMixin):
    """EHLO and the extensions that are offered, with TLS and AUTH as `security` has them."""

    def __init__(
        self,
        attempts: AttemptManager,
        hosts: Hosts,
        mail: Mail,
        settings: RelayerSettings,
        security: Security,
    ) -> None:
        greeting = SecureGreeting(settings.source, settings.smtp_port, security)
        super().__init__(attempts, hosts, mail, settings, greeting)


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


def _may_ask_another(verdict: Outcome | None) -> bool:
    """Whether another host may be asked about this recipient in the same attempt.

    Not when it is in doubt: another host would surely deliver it a second time.  Nor when it
    is to be held: what is damaged is damaged for all of them.
    """
    return verdict is None or (
        verdict.kind is Kind.DEFERRED and not verdict.in_doubt and not verdict.hold
    )


def _too_many_at_once(batch: Sequence[int], told: Mapping[int, Outcome]) -> list[int]:
    """Those refused only for being too many in one transaction: they go in the next one, at
    once (RFC 5321 4.5.3.1.10), provided that this one took some."""
    refused = [n for n in batch if told[n].reply.code == 452 and told[n].reply.status == "4.5.3"]
    refused = [n for n in refused if told[n].stage == outcome.RCPT]
    return refused if len(refused) < len(batch) else []


def _unreadable(recipients: Iterable[int], error: StoreFailed) -> dict[int, Outcome]:
    reply = Reply(451, "4.3.0", f"the spooled message cannot be read: {error}")
    hold = str(error) if isinstance(error, StoreDamaged) else ""
    told = outcome.of_ours(outcome.CONTENT, reply)._replace(hold=hold)
    return dict.fromkeys(recipients, told)
