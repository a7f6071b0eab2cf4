"""The `Queue`: what gwrelay has accepted and not yet settled.

The one owner of message state.  Joins the store (what is durable) and the schedule (what
is due when); never knows who delivers.  A message is in one of these states:

    waiting    in the schedule, with a time it is due at
    relaying   taken by get_waiting() or set_relaying(), not yet settled or set waiting
    done       settled for good, dropped from the store

All methods may be called from any greenlet.  Those that write wait for the disk only in
add_message() and Draft.accept().
"""

import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from gwrelay.errors import AccountingError, StoreFailed, StoreFull
from gwrelay.message import dsn
from gwrelay.message.envelope import Envelope, Message, Recipient, message_name
from gwrelay.message.outcome import Outcome
from gwrelay.queue.delivery import Delivery
from gwrelay.queue.draft import Draft
from gwrelay.queue.resident import Resident
from gwrelay.queue.retry import RetryPolicy
from gwrelay.queue.schedule import Schedule
from gwrelay.queue.settlement import Settlement, settle
from gwrelay.queue.spoolstore import SpoolStore, open_spool
from gwrelay.queue.store import NewMessage, Open, State, Store, first_state

logger = logging.getLogger(__name__)

#: Bytes of content kept in memory from accept to the first attempt, so that mail that is
#: delivered at once is never read back from disk.
RESIDENT_BYTES = 64 * 1024 * 1024

#: Seconds to leave a failing disk alone before what is on it is wanted again.
_DISK_RETRY_S = 60.0


class Settled(NamedTuple):
    """What settle() decided, for those who tell people."""

    settlement: Settlement
    #: The message as it was; None when the disk would not give it back.
    message: Message | None
    #: The report it caused, now waiting like any other message.
    report: Message | None


class Queue:
    """`Queue(store)`, or `Queue.open(directory)` for the usual one, a spool on disk."""

    def __init__(
        self,
        store: Store,
        *,
        retry: RetryPolicy | None = None,
        hostname: str = "localhost",
        resident_bytes: int = RESIDENT_BYTES,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._retry = retry or RetryPolicy()
        self._hostname = hostname
        self._clock = clock
        self._chance = chance
        self._lock = threading.Lock()
        self._schedule = Schedule()
        self._relaying: set[Delivery] = set()
        #: What is open of messages with several destinations: settling one must know of the
        #: others.
        self._split: dict[int, tuple[Open, ...]] = {}
        self._resident = Resident(resident_bytes)
        self._relayed = 0
        #: Called, from whichever greenlet, when something became due sooner than expected.
        self.on_change: Callable[[], None] = _nothing
        now = clock()
        latest = now + self._retry.longest_delay_s
        for message_id, state in store.claim():
            self._file(message_id, _in_time(state, now, latest))

    @classmethod
    def open(cls, directory: str | os.PathLike[str], **options: object) -> "Queue":
        """A queue on the spool in `directory`, made when it is not there.

        Raises StoreFailed when it cannot be used, as while another process has it.
        """
        return cls(SpoolStore(open_spool(directory)), **options)  # type: ignore[arg-type]

    # -- accepting -----------------------------------------------------------------------

    def draft(self) -> Draft:
        return Draft(self, self._store)

    def add_message(self, envelope: Envelope, content: bytes) -> int:
        """Accept a message; its id.  `content` is canonical: CRLF line ends only.

        On return it is durable, and ours to deliver or to bounce.  Raises StoreFull or
        StoreFailed, and then it is neither kept nor delivered.
        """
        return self.draft().accept(envelope, content).id

    def accept(
        self, message_id: int, envelope: Envelope, content: bytes, pieces: int, size_bytes: int
    ) -> Message:
        """What Draft.accept() does; `content` follows `pieces` that were laid aside."""
        message = Message(message_id, self._clock(), size_bytes, envelope)
        state = first_state(message)
        self._store.accept(NewMessage(message, state, content, pieces))
        with self._lock:
            if not pieces:
                self._resident.keep(message, content)
            self._file(message_id, state)
        self.on_change()
        return message

    # -- what waits ----------------------------------------------------------------------

    def has_waiting(self) -> bool:
        """Whether any delivery waits, due or not."""
        return len(self._schedule) > 0

    def get_waiting(self, limit: int = 1000) -> list[Delivery]:
        """Take at most `limit` deliveries that are due; they are relaying from now on.

        Each must come back by settle() or set_waiting().
        """
        with self._lock:
            due = self._schedule.take_due(self._clock(), limit)
            self._relaying.update(due)
        return due

    def get_relaying(self) -> list[Delivery]:
        with self._lock:
            return list(self._relaying)

    def get_relayed(self) -> int:
        """Messages that are done, delivered or bounced, since this queue was opened."""
        return self._relayed

    @property
    def next_due_at(self) -> float | None:
        """Unix seconds; None when nothing waits."""
        with self._lock:
            return self._schedule.next_due_at

    def __len__(self) -> int:
        """Deliveries that are not done."""
        return len(self._schedule) + len(self._relaying)

    def set_relaying(self, delivery: Delivery) -> None:
        """Note that `delivery`, which is not in the schedule, is being relayed."""
        with self._lock:
            self._relaying.add(delivery)

    def set_waiting(self, delivery: Delivery, due_at: float | None = None) -> None:
        """Put back a delivery that was not tried: no attempt is counted, nothing written.

        Due again at `due_at` (Unix seconds), by default at once; at the end of its lifetime
        if that comes first.  Raises AccountingError for one that is not being relayed: in
        the schedule twice it would be delivered twice.
        """
        with self._lock:
            self._check_relaying(delivery)
            self._relaying.discard(delivery)
            now = self._clock()
            delivery.due_at = now if due_at is None else due_at
            expires_at = self._retry.expires_at(delivery.arrived_at, delivery.is_bounce)
            if now < expires_at:
                delivery.due_at = min(delivery.due_at, expires_at)
            if delivery.due_at > now:
                # Mail for hosts that are down would fill the budget, and stay.
                self._resident.drop(delivery.message_id)
            self._schedule.add(delivery)
        self.on_change()

    def defer(self, delivery: Delivery, delay_s: float) -> None:
        """set_waiting(), due `delay_s` seconds from now."""
        self.set_waiting(delivery, self._clock() + delay_s)

    def hasten(self, delivery: Delivery) -> bool:
        """Let a delivery that waits be due now: what it waited for is there.

        False when it does not wait: it is being relayed, or done.
        """
        with self._lock:
            waits = self._schedule.hasten(delivery, self._clock())
        if waits:
            self.on_change()
        return waits

    def has_expired(self, delivery: Delivery) -> bool:
        """Whether its lifetime is over: the next deferral will be its end."""
        expires_at = self._retry.expires_at(delivery.arrived_at, delivery.is_bounce)
        return self._clock() >= expires_at

    # -- what is being relayed -----------------------------------------------------------

    def get_message(self, message_id: int) -> Message:
        """Raises StoreFailed when it cannot be read back."""
        return self._resident.message(message_id) or self._store.message(message_id)

    def get_envelope(self, message_id: int) -> Envelope:
        return self.get_message(message_id).envelope

    def get_content(self, message_id: int) -> Iterable[bytes]:
        """The content in pieces.  Raises StoreFailed, perhaps half-way, on a damaged disk."""
        content = self._resident.content(message_id)
        return self._store.content(message_id) if content is None else (content,)

    def settle(self, delivery: Delivery, outcomes: Mapping[int, Outcome]) -> Settled:
        """End the attempt at `delivery`: `outcomes` has one for each of its recipients.

        What stays open waits again; what failed is reported to the sender.  The new state
        and the report are one record: after a crash both are there, or neither.

        Raises AccountingError for a delivery that is not being relayed, or other recipients
        than its own; whatever it raises, the delivery is being relayed still.
        """
        with self._lock:
            self._check_relaying(delivery)
            now = self._clock()
            settlement = settle(delivery, outcomes, self._retry, now, self._chance())
            message = self._message_if_readable(delivery.message_id)
            report = self._report(message, settlement, now)
            parts = self._parts_after(delivery, settlement)
            state = State(delivery.arrived_at, delivery.is_bounce, parts) if parts else None
            # First in the log: what that refuses must not have happened in memory.
            self._store.settle(delivery.message_id, state, report)
            self._advance(delivery, settlement, parts)
        if report is not None:
            self._file_report(report)
        self.on_change()
        return Settled(settlement, message, report.message if report else None)

    def done(self, message_id: int) -> None:
        """Drop a message, whatever is open of it: nobody is told.

        An attempt under way is not stopped, but has nothing left to settle.
        """
        with self._lock:
            self._store.settle(message_id, None, None)
            self._schedule.remove(message_id)
            self._relaying = {d for d in self._relaying if d.message_id != message_id}
            self._split.pop(message_id, None)
            self._resident.drop(message_id)
            self._relayed += 1

    def close(self) -> None:
        """Everything settled so far is durable on return."""
        self._store.close()

    # -- inside --------------------------------------------------------------------------

    def _file(self, message_id: int, state: State) -> None:
        if len(state.open) > 1:
            self._split[message_id] = state.open
        for part in state.open:
            self._schedule.add(
                Delivery(
                    message_id,
                    part.destination,
                    part.recipients,
                    state.arrived_at,
                    state.is_bounce,
                    part.attempts,
                    part.due_at,
                )
            )

    def _check_relaying(self, delivery: Delivery) -> None:
        if delivery not in self._relaying:
            raise AccountingError(f"{delivery} is not being relayed")

    def _parts_after(self, delivery: Delivery, settlement: Settlement) -> tuple[Open, ...]:
        """What is open of the message after `settlement`."""
        others = self._split.get(delivery.message_id, ())
        parts = tuple(p for p in others if p.destination != delivery.destination)
        return parts if settlement.remaining is None else (*parts, settlement.remaining)

    def _advance(self, delivery: Delivery, settlement: Settlement, parts: tuple[Open, ...]) -> None:
        """`settlement` takes effect in memory; `parts` are open after it."""
        message_id, remaining = delivery.message_id, settlement.remaining
        self._relaying.discard(delivery)
        if remaining is not None:
            delivery.recipients = remaining.recipients
            delivery.attempts = remaining.attempts
            delivery.due_at = remaining.due_at
            self._schedule.add(delivery)
        self._split.pop(message_id, None)
        if len(parts) > 1:
            self._split[message_id] = parts
        if not parts:
            self._relayed += 1
        if all(p.attempts for p in parts):
            self._resident.drop(message_id)

    def _file_report(self, report: NewMessage) -> None:
        """Let a report wait for delivery, once it can be read back."""
        state = report.state
        try:
            self._store.flush()
        except (StoreFull, StoreFailed) as error:
            logger.warning("a report must wait for the disk: %s", error)
            later = report.message.arrived_at + _DISK_RETRY_S
            state = state._replace(open=tuple(p._replace(due_at=later) for p in state.open))
        with self._lock:
            self._file(report.message.id, state)

    def _report(
        self, original: Message | None, settlement: Settlement, now: float
    ) -> NewMessage | None:
        """The DSN owed for this settlement; None when nobody is owed one."""
        if not settlement.owes_dsn or original is None:
            return None
        failures = [
            dsn.Failure(original.envelope.recipients[n], told, n in settlement.expired)
            for n, told in sorted(settlement.failed.items())
            if _wants_failures(original.envelope.recipients[n])
        ]
        if not failures:
            return None
        report = dsn.Report(
            self._hostname,
            self._store.next_id(),
            now,
            original.id,
            original.arrived_at,
            original.envelope,
            failures,
            self._header_section(original.id),
        )
        return _as_message(report)

    def _message_if_readable(self, message_id: int) -> Message | None:
        try:
            return self.get_message(message_id)
        except StoreFailed as error:
            logger.error("message %s cannot be read: %s", message_name(message_id), error)
            return None

    def _header_section(self, message_id: int) -> bytes:
        """What cannot be read is left out: the report matters more than the quotation."""
        try:
            return dsn.header_section(next(iter(self.get_content(message_id)), b""))
        except StoreFailed:
            return b""


def _in_time(state: State, now: float, latest: float) -> State:
    """`state` without times that a clock gone wrong has written: no message is from the
    future, and none is due after `latest`."""
    if state.arrived_at <= now and all(part.due_at <= latest for part in state.open):
        return state
    parts = tuple(part._replace(due_at=min(part.due_at, latest)) for part in state.open)
    return state._replace(arrived_at=min(state.arrived_at, now), open=parts)


def _wants_failures(recipient: Recipient) -> bool:
    """RFC 3461 4.1: without NOTIFY, failures are reported."""
    return not recipient.notify or "FAILURE" in recipient.notify


def _as_message(report: dsn.Report) -> NewMessage:
    content = dsn.build(report)
    needs_8bit = not content.isascii()
    envelope = Envelope(
        "",
        (Recipient(report.envelope.reverse_path),),
        "8BITMIME" if needs_8bit else "7BIT",
        dsn.needs_smtputf8(report),
    )
    message = Message(report.report_id, report.now, len(content), envelope)
    return NewMessage(message, first_state(message), content)


def _nothing() -> None:
    """Nobody listens yet."""
