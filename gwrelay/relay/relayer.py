"""The relayers: each a greenlet's work, owning one session with one host of a site.

A relayer takes deliveries until its site runs dry.  For each it walks the hosts of the
present plan: a host that cannot be reached or greeted is marked bad and the next one is
tried; what a host says about a recipient is an outcome (RFC 5321 5.1).  It knows neither
schedules nor bounces: everything ends at its AttemptManager.

    SMTPManagedRelayer    HELO, no extensions
    ESMTPManagedRelayer   EHLO and what it offers; TLS and AUTH as they are demanded
"""

from collections.abc import Hashable, Mapping, Sequence

from gwrelay.errors import StoreFailed
from gwrelay.message import outcome
from gwrelay.message.envelope import Message
from gwrelay.message.outcome import Kind, Outcome
from gwrelay.message.reply import Reply
from gwrelay.mx.candidates import Candidate
from gwrelay.queue.delivery import Delivery
from gwrelay.queue.store import Doubt
from gwrelay.relay.attempt import AttemptManager
from gwrelay.relay.greeting import Greeting, PlainGreeting, SecureGreeting
from gwrelay.relay.recipients import is_incapable, left_for_the_next, may_ask_another
from gwrelay.relay.security import Security
from gwrelay.relay.session import Hosts, RelayerSettings
from gwrelay.relay.transfer import Mail, Transfer, spool_failed

__all__ = [
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


class ManagedRelayerMixin:
    """Takes deliveries, asks hosts about their recipients, tells the attempt manager.

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
        self._transfer = Transfer(attempts, hosts, mail, settings, greeting)
        self._sessions = self._transfer.sessions
        #: Verdicts on the delivery in hand so far.
        self._told: dict[int, Outcome] = {}

    @property
    def stopping(self) -> bool:
        """Set from outside: finish the delivery in hand, then end."""
        return self._transfer.stopping

    @stopping.setter
    def stopping(self, stopping: bool) -> None:
        self._transfer.stopping = stopping

    @property
    def is_past_final_dot(self) -> bool:
        """Whether the message in hand may have been accepted already."""
        return self._transfer.is_past_final_dot

    @property
    def upcoming(self) -> Delivery | None:
        """Taken early; see Transfer."""
        return self._transfer.upcoming

    @property
    def progress(self) -> Hashable:
        """Another one whenever the session has got on by a step, or by some bytes."""
        connection = self._sessions.connection
        return None if connection is None else (connection, connection.stage, connection.moves)

    @property
    def whereabouts(self) -> str:
        """For people: with which host its session is, and at which stage; "" without one."""
        connection = self._sessions.connection
        if connection is None:
            return ""
        return f"{connection.exchange}[{connection.address}], in {connection.stage}"

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

    def _break_off(self) -> None:
        """Ended in the middle of a delivery, by a bug or by being stopped.  What is known of it
        counts, and so does what the log has noted; when nothing is known it stays in hand."""
        self._transfer.give_back()
        delivery = self.attempts.in_hand
        if delivery is None:
            return
        self._told |= self._transfer.break_off()
        if self._told:
            unknown = outcome.of_ours(outcome.CONNECT, _BROKEN_OFF)
            told = dict.fromkeys(delivery.recipients, unknown) | self._told
            self.attempts.notify_failure(self, delivery, told)

    def relay(self, delivery: Delivery) -> None:
        """One attempt at one delivery, over as many hosts as it takes and is allowed."""
        told = self._told = {}
        if not self.attempts.take(delivery):
            return
        try:
            message = self._mail.get_message(delivery.message_id, keeps_content=True)
        except StoreFailed as error:
            self.attempts.notify_failure(self, delivery, spool_failed(delivery.recipients, error))
            return
        doubt = delivery.doubt
        unreached: Outcome | None = None
        sessions = 0
        candidates = self._candidates(doubt)
        for n, candidate in enumerate(candidates, start=1):
            self._sessions.is_last_resort = n == len(candidates)
            pending = list(delivery.recipients)
            if told:
                pending = [r for r in pending if may_ask_another(told.get(r), doubt)]
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
        for verdict in told.values():
            if verdict.kind is not Kind.DELIVERED:
                self.attempts.notify_failure(self, delivery, told)
                return
        self.attempts.notify_success(self, delivery, told)

    def _next(self) -> Delivery | None:
        if self.stopping:
            return None
        upcoming = self._transfer.take_upcoming()
        if upcoming is not None:
            return upcoming
        kept, settings = self._sessions.may_be_kept, self._settings
        idle_s = settings.idle_timeout_s if kept else 0.0
        return self.attempts.site.take(idle_s, needs_session=not kept, event=settings.event)

    def _candidates(self, doubt: Doubt | None) -> Sequence[Candidate]:
        """The present plan.  The host that a delivery is in doubt at comes before all others,
        marked or not; else the session we have, if its host is unmarked, and preferred as much
        as any."""
        candidates = self._hosts.plan().candidates
        if doubt is not None:
            doubted = self._hosts.find(doubt.host.address, doubt.host.port)
            others = tuple(c for c in candidates if c != doubted)
            return others if doubted is None else (doubted, *others)
        ours = self._sessions.candidate
        if ours is None or ours in candidates[:1]:
            return candidates
        kept = self._hosts.find_best(ours)
        if kept is None:
            return candidates
        others = tuple(c for c in candidates if c[1:3] != kept[1:3])
        return (kept, *others)[: len(candidates)]

    def _over(self, candidate: Candidate, message: Message, pending: list[int]) -> Outcome | None:
        """Ask this host about the `pending` recipients; or say why it cannot be used."""
        waiting = pending
        while waiting:
            batch = waiting[: self._settings.recipients_per_message]
            is_last = len(batch) == len(waiting)
            answer = self._transfer.send(candidate, message, batch, is_last=is_last)
            if isinstance(answer, Outcome):
                if len(waiting) == len(pending):
                    return answer
                self._note(dict.fromkeys(waiting, answer))
                return None
            waiting = waiting[len(batch) :]
            if len(batch) > 1:
                again = left_for_the_next(batch, answer)
                waiting = again + waiting
                for n in again:
                    del answer[n]
            self._note(answer)
        return None

    def _note(self, answer: Mapping[int, Outcome]) -> None:
        """What a host said.  That it is not capable of the message is its last word only as long
        as no other has put the message off."""
        told = self._told
        for n, verdict in answer.items():
            if not (n in told and told[n].kind is Kind.DEFERRED and is_incapable(verdict)):
                told[n] = verdict


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
