"""A relayer's transactions with one host after the other, over the session it keeps.

Two things are bound to the moment before a final dot.  The delivery is noted to be in doubt,
durably enough for a crash of ours; and, where the next delivery would have to wait for this very
session, its envelope goes along with the dot (RFC 2920 3.1).
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

from gwrelay.errors import AccountingError, ConnectionLost, StoreDamaged, StoreFailed
from gwrelay.message import outcome
from gwrelay.message.envelope import Message
from gwrelay.message.outcome import Outcome
from gwrelay.message.reply import Reply
from gwrelay.mx.candidates import Candidate
from gwrelay.queue.delivery import Delivery
from gwrelay.queue.store import Host
from gwrelay.relay.attempt import AttemptManager
from gwrelay.relay.greeting import Greeting
from gwrelay.relay.session import Hosts, RelayerSettings, SessionKeeper
from gwrelay.smtp import transaction
from gwrelay.smtp.transaction import Transaction


class Mail(Protocol):
    """Where messages are read: the Queue, as far as a relayer needs it."""

    def get_message(self, message_id: int, *, keeps_content: bool = False) -> Message: ...
    def get_content(self, message_id: int) -> Iterable[bytes]: ...


class Transfer:
    def __init__(
        self,
        attempts: AttemptManager,
        hosts: Hosts,
        mail: Mail,
        settings: RelayerSettings,
        greeting: Greeting,
    ) -> None:
        self._attempts = attempts
        self._hosts = hosts
        self._mail = mail
        self._settings = settings
        self.sessions = SessionKeeper(hosts, settings, greeting)
        #: Whom is just being asked, about which recipients, and whether these are the last.
        self._candidate: Candidate | None = None
        self._host = Host("", "")
        self._batch: Sequence[int] = ()
        self._is_last = False
        #: Taken early, so that its envelope can go along with the final dot before it.
        self.upcoming: Delivery | None = None
        #: What went along, and whose it is: the session is good for nothing else.
        self._sent_ahead: tuple[Delivery, Transaction] | None = None
        #: Set from outside: take no further delivery.
        self.stopping = False

    def send(
        self, candidate: Candidate, message: Message, batch: Sequence[int], *, is_last: bool
    ) -> dict[int, Outcome] | Outcome:
        """One transaction about `batch`, recipients by index, the `is_last` of its delivery; or
        why this host cannot be used."""
        if candidate != self._candidate:
            self._candidate = candidate
            self._host = Host(candidate.exchange, candidate.address, candidate.port)
        self._batch, self._is_last = batch, is_last
        answer = self._send(candidate, message, batch)
        self._batch = ()
        return answer

    @property
    def is_past_final_dot(self) -> bool:
        """Whether the message in hand may have been accepted already."""
        connection = self.sessions.connection
        return bool(self._batch) and connection is not None and connection.stage == outcome.DOT

    def take_upcoming(self) -> Delivery | None:
        """The delivery that was taken early, if any."""
        upcoming, self.upcoming = self.upcoming, None
        return upcoming

    def give_back(self) -> None:
        """Let the delivery that was taken early, if any, wait again."""
        if self.upcoming is not None:
            self._attempts.give_back(self.upcoming)
            self.upcoming = None

    def break_off(self) -> dict[int, Outcome]:
        """End it at once: without QUIT, which could pass for content.  What becomes of those that
        were being asked about, if the log has them in doubt."""
        told: dict[int, Outcome] = {}
        candidate, connection = self._candidate, self.sessions.connection
        if self._batch and candidate is not None and self._attempts.is_noted(self._host):
            stage = outcome.CONTENT if connection is None else connection.stage
            lost = ConnectionLost(stage, "broken off by us")
            verdict = outcome.of_loss(lost, candidate.exchange, candidate.address)
            told = dict.fromkeys(self._batch, verdict)
        self.sessions.drop()
        return told

    def _send(
        self, candidate: Candidate, message: Message, batch: Sequence[int]
    ) -> dict[int, Outcome] | Outcome:
        """A kept session found broken is replaced once, at no charge."""
        delivery = self._attempts.in_hand
        if delivery is None:
            raise AccountingError("nothing is in hand")
        ahead = self._take_ahead(delivery)
        while True:
            sessions = self.sessions
            connection = sessions.take(candidate, delivery) or sessions.begin(candidate, delivery)
            if isinstance(connection, Outcome):
                return connection
            was_kept = connection.transactions > 0
            try:
                # Made anew for each try: of the last one the content may have been read.
                sending, ahead = ahead or self._transaction(message, batch), None
                told = transaction.send(connection, sending, self._before_dot)
            except ConnectionLost as lost:
                sessions.drop()
                verdict = outcome.of_loss(lost, candidate.exchange, candidate.address)
                sessions.look_for_breach(connection, delivery, [verdict])
                if was_kept:
                    continue
                return dict.fromkeys(batch, verdict)
            except StoreFailed as error:
                # Half of the content may be out: only breaking off keeps the other end
                # from taking it for the whole.
                sessions.drop()
                return spool_failed(batch, error)
            self._hosts.mark_good(candidate)
            sessions.note_answered(candidate)
            if self._settings.breached is not None:
                sessions.look_for_breach(connection, delivery, told)
            if connection.tls:
                told = [verdict._replace(tls=connection.tls) for verdict in told]
            return dict(zip(batch, told, strict=True))

    def _take_ahead(self, delivery: Delivery) -> Transaction | None:
        """What went along with the last dot, if it was for `delivery`.  If it was for another,
        which was not sent, whatever follows would be its content."""
        ahead, self._sent_ahead = self._sent_ahead, None
        if ahead is None:
            return None
        if ahead[0] is not delivery:
            self.sessions.drop()
            return None
        return ahead[1]

    def _transaction(self, message: Message, batch: Sequence[int]) -> Transaction:
        envelope = message.envelope
        recipients = [envelope.recipients[n] for n in batch]
        content = self._mail.get_content(message.id)
        # A NamedTuple from all its fields: calling the class is Python of its own.
        return tuple.__new__(Transaction, (envelope, recipients, message.size_bytes, content))

    def _before_dot(self, accepted: int) -> Transaction | None:
        """A StoreFailed keeps the dot from being sent."""
        if self._candidate is not None:
            self._attempts.note_in_doubt(self._host)
        return self._next_envelope() if accepted == len(self._batch) else None

    def _next_envelope(self) -> Transaction | None:
        """The envelope to go along with the final dot; None when there is none to wait for this
        session anyway, or when it may not be so."""
        # Asked first: while sessions idle nothing is ready, and all else would be asked in vain.
        if not self._attempts.site.ready:
            return None
        connection = self.sessions.connection
        if connection is None or not self._may_send_ahead:
            return None
        delivery = self.upcoming = self._attempts.site.take(0.0)
        if delivery is None or delivery.doubt is not None:
            return None
        if self._candidate is None or not self.sessions.suits(self._candidate, delivery):
            return None
        try:
            message = self._mail.get_message(delivery.message_id, keeps_content=True)
            batch = delivery.recipients[: self._settings.recipients_per_message]
            sending = self._transaction(message, batch)
        except StoreFailed:
            return None  # its own attempt will say so
        if not transaction.fits(connection, sending):
            return None
        self._sent_ahead = delivery, sending
        return sending

    @property
    def _may_send_ahead(self) -> bool:
        connection = self.sessions.connection
        return (
            connection is not None
            and self._is_last
            and not self.stopping
            and self._settings.rset_mode != "always"
            # One message must have gone well: a server that answers a dot twice shows it then.
            and connection.transactions >= 2
            and connection.may_pipeline
            and self.sessions.may_be_kept
            and self._attempts.site.is_full
        )


def spool_failed(recipients: Iterable[int], error: StoreFailed) -> dict[int, Outcome]:
    reply = Reply(451, "4.3.0", f"our spool failed: {error}")
    hold = str(error) if isinstance(error, StoreDamaged) else ""
    told = outcome.of_ours(outcome.CONTENT, reply)._replace(hold=hold)
    return dict.fromkeys(recipients, told)
