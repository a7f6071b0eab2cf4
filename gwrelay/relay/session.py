"""A relayer's session: opened, greeted, kept for the next message, or given up (RFC 5321 4.1.4).

A kept session is used again only for what it was opened for: the same source and address, the
same TLS level and credentials.  Reuse is bounded by count and by time; a 421 or a close that came
meanwhile is noticed before it can cost anybody an attempt.
"""

import logging
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from gwrelay.errors import ConnectionLost
from gwrelay.message import outcome
from gwrelay.message.notice import Breach
from gwrelay.message.outcome import Host, Outcome
from gwrelay.mx.candidates import Candidate, Plan
from gwrelay.queue.delivery import Delivery
from gwrelay.relay.greeting import Greeting
from gwrelay.relay.site import Event
from gwrelay.smtp.client import Patience
from gwrelay.smtp.connection import MIN_DATA_RATE, TIMEOUTS_S, Connection
from gwrelay.smtp.transcript import Transcript

logger = logging.getLogger(__name__)

#: Seconds for the banner of a host that is not the last one left: RFC 5321 4.5.3.2.1 has five
#: minutes for it, which an overloaded primary would cost each message that a backup would take.
HASTY_BANNER_S = 60.0

#: Refused commands without a message taken, after which a session is given up: many servers then
#: answer later and later (Postfix from the tenth on, smtpd_soft_error_limit).
MOST_REFUSALS = 8


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
    #: Bytes a second that content must be taken at.
    min_data_rate: float = MIN_DATA_RATE
    #: Send what need not wait for a reply without waiting, where the next hop offers it.
    pipelining: bool = True
    #: "auto": RSET when a transaction was left open; "always": before each further message;
    #: "never": such a session is closed instead.
    rset_mode: str = "auto"
    #: How to wait for what comes in the clear; None: as the socket does.
    patience: Callable[[socket.socket], Patience] | None = None
    #: What relayers that idle wait by.
    event: Callable[[], Event] = threading.Event
    #: Told of each breach of the protocol, but for those seen by mail from the null reverse-path;
    #: None: nobody wants to know.
    breached: Callable[[Breach], None] | None = None

    @cached_property
    def hasty_timeouts_s(self) -> Mapping[str, float]:
        """`timeouts_s` while there are other hosts to ask."""
        banner_s = min(self.timeouts_s[outcome.BANNER], HASTY_BANNER_S)
        return {**self.timeouts_s, outcome.BANNER: banner_s}


class Hosts(Protocol):
    """The hosts of one site as they are now: their plan, and their bad-host marks."""

    def plan(self) -> Plan: ...
    def find(self, address: str, port: int) -> Candidate | None: ...
    def find_best(self, like: Candidate) -> Candidate | None: ...
    def mark_bad(self, candidate: Candidate, why: Outcome) -> None: ...
    def mark_good(self, candidate: Candidate) -> None: ...
    def add_session(self, candidate: Candidate) -> None: ...
    def remove_session(self, candidate: Candidate) -> None: ...
    def note_connection(self) -> None: ...


class SessionKeeper:
    """At most one session at a time."""

    def __init__(self, hosts: Hosts, settings: RelayerSettings, greeting: Greeting) -> None:
        self._hosts = hosts
        self._settings = settings
        self._greeting = greeting
        self.connection: Connection | None = None
        #: No other host is left to ask, should the next one not greet us.
        self.is_last_resort = True
        #: Whom it was opened to.
        self.candidate: Candidate | None = None
        #: Whose host has answered MAIL in the present session.
        self._at_work: Candidate | None = None
        #: Its site has allowed the first one when the relayer was started.
        self._has_opened = False

    @property
    def may_be_kept(self) -> bool:
        """Whether the session may carry another message, as far as we are concerned; not when
        it waits for the content of a certain one."""
        connection, settings = self.connection, self._settings
        return (
            connection is not None
            and not connection.spoiled
            and connection.is_open
            and connection.sent_ahead is None
            and connection.refusals < MOST_REFUSALS
            and connection.transactions < settings.max_messages_per_connection
            and not (connection.needs_rset and settings.rset_mode == "never")
            and connection.age_s < settings.connection_lifetime_s
        )

    def suits(self, candidate: Candidate, delivery: Delivery) -> bool:
        """Whether the session we have is with this host, protected and authenticated as
        `delivery` demands."""
        connection = self.connection
        return (
            connection is not None
            and connection.address == candidate.address
            and connection.port == (candidate.port or self._settings.smtp_port)
            and self._greeting.suits(connection, candidate, delivery)
        )

    def take(self, candidate: Candidate, delivery: Delivery) -> Connection | None:
        """The session we have, if it may carry `delivery` there; else it is ended."""
        connection = self.connection
        if connection is None:
            return None
        if self.suits(candidate, delivery) and self._is_usable(connection):
            return connection
        self.hang_up()
        return None

    def begin(self, candidate: Candidate, delivery: Delivery) -> Connection | Outcome:
        """A new session for `delivery`, or why there is none.

        Once more with the same host where the greeting knows another way.
        """
        put_off = self._greeting.prepare(candidate, delivery)
        if put_off is not None:
            return put_off
        opened = self._open(candidate, delivery)
        while isinstance(opened, Outcome) and self._greeting.failed(candidate, opened):
            opened = self._open(candidate, delivery)
        return opened

    def _open(self, candidate: Candidate, delivery: Delivery) -> Connection | Outcome:
        """A host that cannot be reached, or does not greet us, is marked as the table of
        verdicts says."""
        settings = self._settings
        if self._has_opened:
            self._hosts.note_connection()
        self._has_opened = True
        self.candidate = candidate
        connection = self.connection = Connection(
            settings.hostname,
            timeouts_s=settings.timeouts_s if self.is_last_resort else settings.hasty_timeouts_s,
            reply_max_bytes=settings.reply_max_bytes,
            source=settings.source,
            min_data_rate=settings.min_data_rate,
            pipelining=settings.pipelining,
            patience=settings.patience,
            transcript=None if settings.breached is None else Transcript(),
        )
        exchange, address = candidate.exchange, candidate.address
        try:
            reply = self._greeting.connect(connection, candidate)
            if reply.is_positive:
                reply = self._greeting.greet(connection)
            if reply.is_positive:
                self._greeting.succeeded(connection)
                return connection
            told = outcome.of_reply(connection.stage, reply, exchange, address)
            verdict = outcome.verdict_on(connection.stage, reply)
        except ConnectionLost as lost:
            told = outcome.of_loss(lost, exchange, address)
            verdict = outcome.verdict_on_loss(lost.stage)
        logger.info("%s[%s]: %s", exchange, address, told.reply)
        self.look_for_breach(connection, delivery, [told])
        if verdict.host is Host.BAD and not told.ours:
            self._hosts.mark_bad(candidate, told)
        self.hang_up()
        return told

    def note_answered(self, candidate: Candidate) -> None:
        """The host has answered MAIL in this session: it is at work."""
        if self._at_work is None and self.connection is not None:
            self._at_work = candidate
            self._hosts.add_session(candidate)

    def look_for_breach(
        self, connection: Connection, delivery: Delivery, told: Sequence[Outcome]
    ) -> None:
        """Say so if one of `told`, which `delivery` was, shows that the host broke the protocol."""
        breached = self._settings.breached
        # Notices are from the null reverse-path: there is none about them, or about reports.
        if breached is None or delivery.is_bounce:
            return
        for verdict in told:
            is_breach = verdict.heard and outcome.breaks_protocol(verdict.stage, verdict.reply)
            if is_breach or (connection.is_breached and not verdict.heard):
                host = connection.exchange, connection.address
                said = str(verdict.reply)
                breached(Breach(*host, verdict.stage, said, connection.transcript))
                return

    def hang_up(self) -> None:
        if self.connection is not None:
            self.connection.quit()
            self._forget()

    def drop(self) -> None:
        """Without QUIT, which could pass for content."""
        if self.connection is not None:
            self.connection.close()
            self._forget()

    def _forget(self) -> None:
        self.connection = self.candidate = None
        if self._at_work is not None:
            self._hosts.remove_session(self._at_work)
            self._at_work = None

    def _is_usable(self, connection: Connection) -> bool:
        if connection.sent_ahead is not None:
            return connection.is_open  # what waits in the socket is what we wait for
        if not (self.may_be_kept and connection.is_quiet()):
            return False
        if self._settings.rset_mode == "always":
            connection.needs_rset = True
        return True
