"""The relayers: each a greenlet's work, owning one session with one host of a site.

A relayer takes deliveries until its site runs dry.  For each it walks the hosts of the
present plan: a host that cannot be reached or greeted is marked bad and the next one is
tried; what a host says about a recipient is an outcome (RFC 5321 5.1).  It knows neither
schedules nor bounces: everything ends at its AttemptManager.

    SMTPManagedRelayer    HELO, no extensions
    ESMTPManagedRelayer   EHLO and what it offers; STARTTLS and AUTH when given
"""

import ssl
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gwrelay.errors import ConnectionLost, StoreFailed
from gwrelay.message import outcome
from gwrelay.message.envelope import Message
from gwrelay.message.outcome import Kind, Outcome
from gwrelay.message.reply import Reply
from gwrelay.mx.candidates import Candidate
from gwrelay.queue.delivery import Delivery, Doubt, Host
from gwrelay.relay.attempt import AttemptManager
from gwrelay.relay.recipients import is_incapable, may_ask_another, too_many_at_once
from gwrelay.relay.session import Hosts, RelayerSettings, SessionKeeper
from gwrelay.smtp import transaction
from gwrelay.smtp.connection import Connection
from gwrelay.smtp.transaction import Transaction

__all__ = [
    "Credentials",
    "ESMTPManagedRelayer",
    "ESMTPManagedRelayerFactory",
    "Hosts",
    "Mail",
    "ManagedRelayerMixin",
    "RelayerSettings",
    "SMTPManagedRelayer",
    "SMTPManagedRelayerFactory",
]

#: RFC 3463 3.4: no host of the destination could be asked at all.
_NO_HOST = Reply(451, "4.4.1", "no host of the destination could be tried")

_BROKEN_OFF = Reply(451, "4.3.2", "broken off by us; will be tried again")


class Mail(Protocol):
    """Where messages are read: the Queue, as far as a relayer needs it."""

    def get_message(self, message_id: int) -> Message: ...
    def get_content(self, message_id: int) -> Iterable[bytes]: ...


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
        self._sessions = SessionKeeper(hosts, settings, self)
        #: Verdicts on the delivery in hand so far, and whose is just being asked for.
        self._told: dict[int, Outcome] = {}
        self._batch: Sequence[int] = ()
        self._candidate: Candidate | None = None
        self._is_last_batch = False
        #: Taken early, so that its envelope can go along with the final dot before it.
        self._upcoming: Delivery | None = None
        self._sent_ahead: Transaction | None = None
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

    def begin(self, candidate: Candidate) -> Connection | Outcome:
        """A new session with `candidate`, or why there is none."""
        return self._sessions.begin(candidate)

    def run(self, delivery: Delivery | None) -> None:
        """Relay `delivery`, then whatever the site has ready, until it runs dry."""
        try:
            while delivery is not None:
                self.relay(delivery)
                delivery = self._next()
        finally:
            try:
                self._break_off()
                self._sessions.hang_up()
            finally:
                self.attempts.notify_done(self)

    @property
    def is_past_final_dot(self) -> bool:
        """Whether the message in hand may have been accepted already."""
        connection = self._sessions.connection
        return bool(self._batch) and connection is not None and connection.stage == outcome.DOT

    def _break_off(self) -> None:
        """Ended in the middle of a delivery, by a bug or by being stopped: without QUIT, which
        could pass for content.  What is known of it counts; only past the final dot is
        anything in doubt.  When nothing is known it stays in hand."""
        if self._upcoming is not None:
            upcoming, self._upcoming = self._upcoming, None
            self.attempts.give_back(upcoming)
        delivery = self.attempts.in_hand
        if delivery is None:
            return
        if self.is_past_final_dot and self._candidate is not None:
            lost = ConnectionLost(outcome.DOT, "broken off by us")
            verdict = outcome.of_loss(lost, self._candidate.exchange, self._candidate.address)
            self._told |= dict.fromkeys(self._batch, verdict)
        self._sessions.drop()
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
        doubt = delivery.doubt
        unreached: Outcome | None = None
        sessions = 0
        for candidate in self._candidates(doubt):
            pending = [n for n in delivery.recipients if may_ask_another(told.get(n), doubt)]
            if not pending or sessions == self._settings.max_sessions:
                break
            passed_over = self._over(candidate, message, pending)
            if passed_over is not None:
                unreached = passed_over
            elif not is_incapable(told[pending[0]]):  # of the message, hence of each recipient
                sessions += 1
        self._notify(delivery, unreached)

    def _notify(self, delivery: Delivery, unreached: Outcome | None) -> None:
        """Tell how the attempt at `delivery` ended; `unreached` is why a host was passed over."""
        told = self._told
        if unreached is not None:
            # That host might have been capable of what the others were not.
            for n, verdict in told.items():
                if is_incapable(verdict):
                    told[n] = verdict._replace(kind=Kind.DEFERRED)
        if len(told) < len(delivery.recipients):
            unreached = unreached or outcome.of_ours(outcome.CONNECT, _NO_HOST)
            if not told and not unreached.ours:
                self.attempts.notify_no_connection(self, delivery, unreached)
                return
            told = dict.fromkeys(delivery.recipients, unreached) | told
        if all(verdict.kind is Kind.DELIVERED for verdict in told.values()):
            self.attempts.notify_success(self, delivery, told)
        else:
            self.attempts.notify_failure(self, delivery, told)

    def _next(self) -> Delivery | None:
        if self.stopping:
            return None
        upcoming, self._upcoming = self._upcoming, None
        if upcoming is not None:
            return upcoming
        kept = self._sessions.may_be_kept
        return self.attempts.site.take(self._settings.idle_timeout_s if kept else 0.0)

    def _candidates(self, doubt: Doubt | None) -> Sequence[Candidate]:
        """The present plan.  The host that a delivery is in doubt at comes before all others,
        marked or not; else the session we have, if its host is unmarked, and preferred as much
        as any."""
        candidates = self._hosts.plan().candidates
        if doubt is not None:
            doubted = self._hosts.find(doubt.host.address, doubt.host.port)
            others = tuple(c for c in candidates if c != doubted)
            return others if doubted is None else (doubted, *others)
        if self._sessions.connection is None:
            return candidates
        for candidate in candidates:
            if candidate.preference != candidates[0].preference:
                break
            if self._sessions.leads_to(candidate):
                if candidate is candidates[0] or self._hosts.is_bad(candidate):
                    return candidates
                return (candidate, *(c for c in candidates if c is not candidate))
        return candidates

    def _over(
        self, candidate: Candidate, message: Message, pending: Sequence[int]
    ) -> Outcome | None:
        """Ask this host about the `pending` recipients; or say why it cannot be used."""
        waiting = list(pending)
        while waiting:
            batch = waiting[: self._settings.recipients_per_message]
            self._batch, self._candidate = batch, candidate
            self._is_last_batch = len(batch) == len(waiting)
            answer = self._transact(candidate, message, batch)
            self._batch = ()
            if isinstance(answer, Outcome):
                if len(waiting) == len(pending):
                    return answer
                self._note(dict.fromkeys(waiting, answer))
                return None
            again = too_many_at_once(batch, answer)
            waiting = again + waiting[len(batch) :]
            for n in again:
                del answer[n]
            self._note(answer)
        return None

    def _note(self, answer: Mapping[int, Outcome]) -> None:
        """What a host said.  That it is not capable of the message is its last word only as long
        as no other has put the message off."""
        told = self._told
        for n, verdict in answer.items():
            if not (is_incapable(verdict) and n in told and told[n].kind is Kind.DEFERRED):
                told[n] = verdict

    def _transact(
        self, candidate: Candidate, message: Message, batch: Sequence[int]
    ) -> dict[int, Outcome] | Outcome:
        """One transaction.  A kept session found broken is replaced once, at no charge."""
        sending, self._sent_ahead = self._sent_ahead, None
        if sending is None:
            sending = self._transaction(message, batch)
        while True:
            connection = self._sessions.take(candidate) or self.begin(candidate)
            if isinstance(connection, Outcome):
                return connection
            was_kept = connection.transactions > 0
            try:
                told = transaction.send(connection, sending, self._before_dot)
            except ConnectionLost as lost:
                self._sessions.drop()
                if was_kept:
                    continue
                verdict = outcome.of_loss(lost, candidate.exchange, candidate.address)
                return dict.fromkeys(batch, verdict)
            except StoreFailed as error:
                # Half of the content may be out: only breaking off keeps the other end
                # from taking it for the whole.
                self._sessions.drop()
                return _unreadable(batch, error)
            self._hosts.mark_good(candidate)
            return dict(zip(batch, told, strict=True))

    def _transaction(self, message: Message, batch: Sequence[int]) -> Transaction:
        envelope = message.envelope
        recipients = [envelope.recipients[n] for n in batch]
        return Transaction(
            envelope, recipients, message.size_bytes, self._mail.get_content(message.id)
        )

    def _before_dot(self, accepted: int) -> Transaction | None:
        """Note that the delivery in hand may have arrived from here on; what goes along with the
        final dot is the envelope of the next one, where that would have to wait for this session
        anyway.  A StoreFailed keeps the dot from being sent."""
        candidate = self._candidate
        if candidate is not None:
            self.attempts.note_in_doubt(Host(candidate.exchange, candidate.address, candidate.port))
        return self._next_envelope() if accepted == len(self._batch) else None

    def _next_envelope(self) -> Transaction | None:
        site, connection = self.attempts.site, self._sessions.connection
        if (
            connection is None
            or not self._is_last_batch
            or self.stopping
            or self._settings.rset_mode == "always"
            # One message must have gone well: a server that answers a dot twice shows it then.
            or connection.transactions < 2
            or not connection.may_pipeline
            or not self._sessions.may_be_kept
            or not site.is_full
        ):
            return None
        delivery = self._upcoming = site.take(0.0)
        if delivery is None or delivery.doubt is not None:
            return None
        try:
            message = self._mail.get_message(delivery.message_id)
        except StoreFailed:
            return None  # its own attempt will say so
        batch = delivery.recipients[: self._settings.recipients_per_message]
        sending = self._transaction(message, batch)
        if transaction.fits(connection, sending):
            self._sent_ahead = sending
        return self._sent_ahead


class SMTPManagedRelayer(ManagedRelayerMixin):
    """HELO, and nothing that RFC 821 did not know."""

    def greet(self, connection: Connection) -> Reply:
        return connection.helo()


@dataclass(frozen=True)
class Credentials:
    """For AUTH with a smart host."""

    username: str
    password: str = field(repr=False)


class ESMTPManagedRelayer(ManagedRelayerMixin):
    """EHLO, then STARTTLS when a context is given, then AUTH when credentials are."""

    def __init__(
        self,
        attempts: AttemptManager,
        hosts: Hosts,
        mail: Mail,
        settings: RelayerSettings,
        tls: ssl.SSLContext | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        super().__init__(attempts, hosts, mail, settings)
        self._tls = tls
        self._credentials = credentials

    def greet(self, connection: Connection) -> Reply:
        reply = connection.ehlo()
        if reply.is_permanent:
            # RFC 5321 3.2: a server that knows no EHLO gets HELO.
            reply = connection.helo()
        if reply.is_positive and self._tls is not None:
            reply = self._encrypt(connection, self._tls)
        if reply.is_positive and self._credentials is not None:
            reply = self._log_in(connection, self._credentials)
        return reply

    def _encrypt(self, connection: Connection, context: ssl.SSLContext) -> Reply:
        """A context that was given is meant: without TLS the mail waits (RFC 3207 4.1)."""
        if not connection.offers("starttls"):
            return Reply(454, "4.7.0", "STARTTLS is not offered, and TLS was asked for")
        reply = connection.starttls(context)
        return connection.ehlo() if reply.is_positive else reply

    def _log_in(self, connection: Connection, credentials: Credentials) -> Reply:
        if not connection.is_encrypted:
            return Reply(454, "4.7.0", "AUTH needs TLS: a password is not sent in the clear")
        return connection.login(credentials.username, credentials.password)


class SMTPManagedRelayerFactory:
    """Builds the relayers of a manager: one for each session it wants."""

    def __init__(self, settings: RelayerSettings | None = None) -> None:
        self.settings = settings or RelayerSettings()

    def build_relayer(
        self, attempts: AttemptManager, hosts: Hosts, mail: Mail
    ) -> ManagedRelayerMixin:
        return SMTPManagedRelayer(attempts, hosts, mail, self.settings)


class ESMTPManagedRelayerFactory(SMTPManagedRelayerFactory):
    def __init__(
        self,
        settings: RelayerSettings | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        super().__init__(settings)
        self._tls = tls
        self._credentials = credentials

    def build_relayer(
        self, attempts: AttemptManager, hosts: Hosts, mail: Mail
    ) -> ManagedRelayerMixin:
        return ESMTPManagedRelayer(
            attempts, hosts, mail, self.settings, self._tls, self._credentials
        )


def _unreadable(recipients: Iterable[int], error: StoreFailed) -> dict[int, Outcome]:
    reply = Reply(451, "4.3.0", f"the spooled message cannot be read: {error}")
    return dict.fromkeys(recipients, outcome.of_ours(outcome.CONTENT, reply))
