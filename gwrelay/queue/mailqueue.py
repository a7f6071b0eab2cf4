"""The `Queue`: what gwrelay has accepted and not yet settled.

The one owner of message state.  Joins the store (what is durable) and the schedule (what
is due when); never knows who delivers.  Each part of a message is in one of these states:

    waiting    in the schedule, with a time it is due at
    relaying   taken by get_waiting() or set_relaying(), not yet settled or set waiting
    held       not to be tried again until release(): it is damaged, or may have been delivered, or
               an operator holds it (see orders.py)
    done       settled for good; with its last part the message is dropped from the store

All methods may be called from any greenlet.  Those that write wait for the disk only in
add_message() and Draft.accept().
"""

import logging
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import NamedTuple, Protocol

from gwrelay.errors import AccountingError, StoreDamaged, StoreFailed, StoreFull
from gwrelay.message import dsn
from gwrelay.message.envelope import Envelope, Message, message_name
from gwrelay.message.outcome import Outcome
from gwrelay.queue import reports
from gwrelay.queue.delays import Delay, warn
from gwrelay.queue.delivery import Delivery
from gwrelay.queue.draft import Draft
from gwrelay.queue.loading import Loading, in_time, with_told
from gwrelay.queue.orders import Orders
from gwrelay.queue.resident import Resident
from gwrelay.queue.retry import WAIT, RetryPolicy
from gwrelay.queue.selfcheck import SelfCheck
from gwrelay.queue.senders import SENDER_DOMAIN, number_of
from gwrelay.queue.settlement import (
    NOTHING_ENDED,
    Settlement,
    left_in_doubt,
    settle,
    without_answer,
)
from gwrelay.queue.spoolstore import SpoolStore, open_spool
from gwrelay.queue.standing import WAITING, Counts, Part, Standing, delivery_of
from gwrelay.queue.store import Host, NewMessage, Open, State, Store, first_state
from gwrelay.queue.violations import Violations

logger = logging.getLogger(__name__)

#: A NamedTuple from all its fields.  Calling the class is Python of its own.
_new = tuple.__new__

#: Bytes of content kept in memory from accept to the first attempt, so that mail that is
#: delivered at once is never read back from disk.
RESIDENT_BYTES = 64 * 1024 * 1024

#: Bytes of content that is read at once when its attempt begins; more is read as it goes out.
_READ_BACK_BYTES = 256 * 1024

#: Seconds to leave a failing disk alone before what is on it is wanted again.
_DISK_RETRY_S = 60.0

#: Seconds until a warning goes out about what was only put off: all of that time share one sync,
#: which has mostly been had by then.
_WARNING_RESTS_S = 5.0

#: Seconds between two such warnings, and how many seconds' worth may come at once.  One takes some
#: 0.2 ms, on the greenlet that routes all mail: a tenth of its time, when a hundred thousand come
#: to nothing in one moment, as after a start.  Those left out have later turns.
_WARNING_EVERY_S, _WARNINGS_AHEAD_S = 0.002, 0.01

#: Above those of all messages.
_NO_ID = sys.maxsize


class Settled(NamedTuple):
    """What settle() decided, for those who tell people."""

    settlement: Settlement
    #: The message as it was; None when the disk would not give it back.
    message: Message | None
    #: The report it caused, now waiting like any other message.
    report: Message | None
    #: Recipients, by index, of which that report says that they wait still.
    warned: Collection[int] = ()


class Warned(Protocol):
    """Told of each warning that no attempt has caused: `report` says of these recipients of
    `original`, by index, that they wait still."""

    def __call__(self, original: Message, report: Message, recipients: Collection[int]) -> None: ...


class EndedInDoubt(Protocol):
    """Told of each delivery that a crash left in doubt, when it is loaded; as relay's Ended."""

    def __call__(
        self, delivery: Delivery, attempt: int, told: Mapping[int, Outcome], settled: Settled
    ) -> None: ...


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
        load_later: bool = False,
        fair_by: str = SENDER_DOMAIN,
    ) -> None:
        """What the store holds is all there on return; with `load_later` it comes with
        load(), and everything else works before and meanwhile."""
        self._store = store
        self._retry = retry or RetryPolicy()
        self._hostname = hostname
        self._clock = clock
        self._chance = chance
        self._fair_by = fair_by
        self._lock = threading.Lock()
        #: What self-checks found.
        self.violations = Violations(time.monotonic)
        self._standing = Standing(self._state, self.violations)
        #: Messages that the store may have by now, and that do not wait yet.
        self._arriving: set[int] = set()
        self._resident = Resident(resident_bytes)
        self._relayed = 0
        #: Id of the first warning that nobody has waited to be durable yet.
        self._unsynced_from = _NO_ID
        #: Deliveries that get_waiting() is about to return, when the disk has taken something.
        self.being_taken: list[Delivery] = []
        #: Unix seconds; ahead of the clock by as much as warnings have been too many.
        self._warned_until = 0.0
        #: Called, from whichever greenlet, when something became due sooner than expected.
        self.on_change: Callable[[], None] = _nothing
        self.on_in_doubt: EndedInDoubt | None = None
        self.on_warned: Warned | None = None
        #: What a part (message id and first recipient) was told the last time, if all of it was
        #: told the same and anybody remembers.
        self.recall: Callable[[int, int], Outcome | None] = _forgotten
        #: Whether a delivery that is due, but waits, would only be set to wait again behind others.
        self.is_in_line: Callable[[Delivery], bool] = _alone
        self.orders = Orders(
            self._lock,
            self._standing,
            self._here,
            self._write,
            clock,
            lambda: self.on_change(),
            lambda delivery: self.is_in_line(delivery),
        )
        self.selfcheck = SelfCheck(
            self._lock,
            self._standing,
            store,
            self._state,
            self.violations,
            arriving=self._arriving,
            is_loaded=lambda: self.is_loaded,
            changed=lambda: self.on_change(),
        )
        if load_later:
            self._loading = Loading(store, until=store.next_id())
            return
        self._loading = Loading(store)
        while not self._loading.is_complete:
            self._load_list()

    @classmethod
    def open(cls, directory: str | os.PathLike[str], **options: object) -> "Queue":
        """A queue on the spool in `directory`, made when it is not there.

        Raises StoreFailed when it cannot be used, as while another process has it.
        """
        return cls(SpoolStore(open_spool(directory)), **options)  # type: ignore[arg-type]

    def load(self, stop: threading.Event) -> None:
        """Let what the store held at the start wait, in small steps, beside all other work.

        Returns when all of it is there, or soon after `stop` is set: what is not loaded then
        is as durable as before.  A disk that fails is tried again until then.
        """
        began = time.monotonic()
        self._loading.run(stop, self._load_list)
        logger.info(
            "%s %d messages in %.1f s; %d deliveries waiting, %d messages held",
            "loaded" if self._loading.is_complete else "stopped loading after",
            self._loading.messages,
            time.monotonic() - began,
            self._standing.waiting,
            len(self.get_held()),
        )

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
        message = _new(Message, (message_id, self._clock(), size_bytes, envelope))
        state = first_state(message, number_of(envelope.reverse_path, self._fair_by))
        self._arriving.add(message_id)
        try:
            self._store.accept(_new(NewMessage, (message, state, content, pieces)))
            with self._lock:
                if not pieces:
                    self._resident.keep(message, content, state)
                # Somebody may be waiting for it, and never for a bounce.  What is due already, be
                # it a hundred thousand, is taken much faster than mail can come in: it does not
                # starve.
                file = self._standing.file if state.is_bounce else self._standing.file_first
                file(message_id, state.open)
                self._note_new(message_id, state)
        finally:
            self._arriving.discard(message_id)
        self.on_change()
        return message

    # -- what waits ----------------------------------------------------------------------

    @property
    def is_loaded(self) -> bool:
        """Whether all that the store held at the start is here."""
        return self._loading.is_complete

    def is_left_in_doubt(self, part: Part) -> bool:
        """Whether it may have been delivered, and is left alone until it is due for that reason."""
        return (
            self._retry.in_doubt == WAIT
            and part.word == WAITING
            and part.open.doubt is not None
            and part.open.due_at > self._clock()
        )

    def has_waiting(self) -> bool:
        """Whether any delivery waits, due or not."""
        return self._standing.waiting > 0

    def get_waiting(self, limit: int = 1000) -> list[Delivery]:
        """Take at most `limit` deliveries that are due; they are relaying from now on.

        Each must come back by settle() or set_waiting().
        """
        with self._lock:
            now = self._clock()
            if self._standing.has_gone_back(now):
                # Else everything would wait for as long again.
                self._standing.hasten_all(now + self._retry.longest_delay_s)
            taken = self._standing.take_due(now, limit)
        if self._unsynced_from < _NO_ID:
            self.being_taken = taken
            self._sync_warnings(taken)
            self.being_taken = []
        return taken

    def get_relaying(self) -> list[Delivery]:
        with self._lock:
            return self._standing.relaying()

    def get_relayed(self) -> int:
        """Messages that are done, delivered or bounced, since this queue was opened."""
        return self._relayed

    @property
    def counts(self) -> Counts:
        """Of parts that are here: those that are not loaded yet are not among them."""
        return self._standing.counts

    def ids(self) -> Iterator[list[int]]:
        """Of messages that are not done, in small lists, oldest first.  Such as come or go
        meanwhile may be left out, and those that are not loaded yet."""
        return self._store.ids()

    def parts(self, message_id: int) -> list[Part]:
        """What is open of a message; nothing when it is done, damaged, or not loaded yet."""
        with self._lock:
            try:
                state = self._state(message_id)
            except StoreDamaged:
                return []
            if state is None or not self._is_filed(message_id):
                return []
            return self._standing.parts(message_id, state)

    def get_held(self) -> list[int]:
        """Ids of messages of which a part is held, oldest first."""
        with self._lock:
            return self._standing.held()

    @property
    def next_due_at(self) -> float | None:
        """Unix seconds; None when nothing waits.  Nothing is due before it; after done(), and
        only then, it may be that nothing is due at it either."""
        return self._standing.next_due_at

    def __len__(self) -> int:
        """Deliveries that are not done."""
        return len(self._standing)

    def is_relaying(self, delivery: Delivery) -> bool:
        """Whether it came from get_waiting(), and has not come back yet."""
        return self._standing.is_relaying(delivery)

    def set_relaying(self, delivery: Delivery) -> None:
        """Note that `delivery`, which is not in the schedule, is being relayed."""
        with self._lock:
            self._standing.begin(delivery)

    def set_waiting(
        self, delivery: Delivery, due_at: float | None = None, *, keeps_content: bool = False
    ) -> None:
        """Put back a delivery that was not tried: no attempt is counted, nothing written, but for
        one of which note_in_doubt() said more than came true.

        Due again at `due_at` (Unix seconds), by default at once; at the end of its lifetime, or
        when its sender is to be warned, if that comes first.  With `keeps_content` it will be
        hastened soon.  Raises AccountingError for one that is not being relayed: in the
        schedule twice it would be delivered twice.
        """
        with self._lock:
            self._standing.check_relaying(delivery)
            self._standing.end(delivery)
            now = self._clock()
            due_at = now if due_at is None else due_at
            due_at = self._retry.latest_turn(due_at, delivery.arrived_at, delivery.is_bounce, now)
            if delivery.doubt is not None:
                self._unhold(delivery)
            if due_at > now and not keeps_content:
                # Mail for hosts that are down would fill the budget, and stay.
                self._resident.drop(delivery.message_id)
            self._standing.wait(due_at, delivery)
        self.on_change()

    def _unhold(self, delivery: Delivery) -> None:
        """What note_in_doubt() has put on hold for the case of a crash is not: it waits again."""
        state = self._state_of(delivery)
        parts = tuple(
            part._replace(held="") if part.recipients[0] == delivery.part else part
            for part in state.open
        )
        if parts != state.open:
            self._write(delivery.message_id, state._replace(open=parts))

    def defer(self, delivery: Delivery, delay_s: float) -> None:
        """set_waiting(), due `delay_s` seconds from now."""
        self.set_waiting(delivery, self._clock() + delay_s)

    def waits(self, entry: int) -> bool:
        """Whether a delivery that was put back, as this `delivery.entry`, still waits."""
        return self._standing.waits(entry)

    def hasten(self, entry: int, message_id: int, part: int) -> bool:
        """Let a delivery that was put back, as this `delivery.entry`, be due now: what it waited
        for is there.  False when it does not wait any more: it is being relayed, or done."""
        with self._lock:
            waited = self._standing.hasten(entry, self._clock(), message_id, part)
        if waited:
            self.on_change()
        return waited

    def warn_of_delay(self, delivery: Delivery, why: Outcome | None) -> bool:
        """Tell the sender that `delivery`, which is put off for what others were told, waits still;
        once, and only when it is time for that.

        When there are too many at a time it is left for the next turn: False.  A message that
        cannot be read costs the warning, and what cannot be written puts it off.  Raises
        AccountingError for one that is not being relayed.
        """
        now = self._clock()
        if delivery.is_bounce or not self._retry.is_late(delivery.arrived_at, now):
            return True
        ahead_s = max(self._warned_until - now, 0.0)
        if ahead_s > 2 * _WARNINGS_AHEAD_S:
            ahead_s = 0.0  # it never gets there: the clock was set back
        with self._lock:
            self._standing.check_relaying(delivery)
            told = dict.fromkeys(delivery.recipients, why)
            recall = partial(self.recall, delivery.message_id)
            before = self._state_of(delivery)
            after, late = warn(before, told, self._retry, now, tried=False, recall=recall)
            if not late:
                return True
            if ahead_s > _WARNINGS_AHEAD_S:
                return False
            self._warned_until = now + ahead_s + _WARNING_EVERY_S
            message = self._message_if_readable(delivery.message_id)
            delayed = _wanted(message, late)
            report = self._report(message, NOTHING_ENDED, delayed, now)
            try:
                self._write(delivery.message_id, after, report)
            except (StoreFull, StoreFailed) as error:
                name = message_name(delivery.message_id)
                logger.warning("message %s: the warning that it is late waits: %s", name, error)
                return False
            if report is not None:
                rested = _due_at(report.state, now + _WARNING_RESTS_S)
                self._standing.file(report.message.id, rested.open)
                self._note_new(report.message.id, rested)
                self._unsynced_from = min(self._unsynced_from, report.message.id)
        if message is not None and report is not None and self.on_warned is not None:
            self.on_warned(message, report.message, delayed)
        return True

    def has_expired(self, delivery: Delivery) -> bool:
        """Whether its lifetime is over: the next deferral will be its end."""
        expires_at = self._retry.expires_at(delivery.arrived_at, delivery.is_bounce)
        return self._clock() >= expires_at

    # -- what is being relayed -----------------------------------------------------------

    def get_message(self, message_id: int, *, keeps_content: bool = False) -> Message:
        """With `keeps_content` an attempt begins: what is read from disk for it stays in memory
        until it ends.  Raises StoreFailed when it cannot be read back."""
        kept = self._resident.get(message_id)
        if kept:
            return kept.message
        message = self._store.message(message_id)
        if keeps_content and message.size_bytes <= min(_READ_BACK_BYTES, self._resident.left_bytes):
            self._keep_again(message)
        return message

    def get_envelope(self, message_id: int) -> Envelope:
        return self.get_message(message_id).envelope

    def get_content(self, message_id: int) -> Iterable[bytes]:
        """The content in pieces.  Raises StoreFailed, perhaps half-way, on a damaged disk."""
        kept = self._resident.get(message_id)
        return (kept.content,) if kept else self._store.content(message_id)

    def note_in_doubt(self, delivery: Delivery, host: Host) -> None:
        """Say, before the final dot, that `host` may have this delivery from now on.

        If this process ends before settle(), the next one finds it in doubt and treats it so.
        Until then it changes nothing but `delivery.doubt`.  Raises StoreFailed: nothing is
        noted, and the dot should not be sent.  AccountingError as settle() does.
        """
        now = self._clock()
        with self._lock:
            self._standing.check_relaying(delivery)
            left = without_answer(delivery, host, self._retry, now, self._chance())
            state = _after(self._state_of(delivery), delivery, (left,))
            alone = len(state.open) == 1
            noted = True
            if not alone:
                # Before anybody else writes its state.
                noted = self._store.note_at_once(delivery.message_id, state)
                self._resident.amend(delivery.message_id, state)
        if alone:
            # Those who are ready at once share one write.
            self._store.note(delivery.message_id, state)
            self._resident.amend(delivery.message_id, state)
        elif not noted:
            self._store.flush()
        delivery.doubt = left.doubt

    def settle(self, delivery: Delivery, outcomes: Mapping[int, Outcome]) -> Settled:
        """End the attempt at `delivery`: `outcomes` has one for each of its recipients.

        What stays open waits again; what failed is reported to the sender, and so is, once, what
        waits for long.  The new state and the report are one record: after a crash both are there,
        or neither.

        Raises AccountingError for a delivery that is not being relayed, or other recipients
        than its own; whatever it raises, the delivery is being relayed still.
        """
        self._standing.check_relaying(delivery)
        now = self._clock()
        settlement = settle(delivery, outcomes, self._retry, now, self._chance())
        # Nobody else waits while the disk is read and the report is made: what both are about
        # never changes, but for who has been warned.
        message = self._message_if_readable(delivery.message_id)
        before = self._state_of(delivery)
        after, late = self._warned(before, delivery, settlement, outcomes, now)
        delayed = _wanted(message, late)
        report = self._report(message, settlement, delayed, now)
        with self._lock:
            self._standing.check_relaying(delivery)
            newest = self._state_of(delivery)
            if newest != before:
                after, late = self._warned(newest, delivery, settlement, outcomes, now)
                if _wanted(message, late) != delayed:
                    delayed = _wanted(message, late)
                    report = self._report(message, settlement, delayed, now)
            if report is not None:
                self._arriving.add(report.message.id)
            # First in the log: what that refuses must not have happened in memory.
            self._write(delivery.message_id, after, report)
            if report is not None:
                self._resident.keep(report.message, report.content, report.state)
            self._standing.end(delivery)
            self._standing.file_again(delivery, settlement.remaining)
        for part in settlement.remaining:
            if part.held:
                name = message_name(delivery.message_id)
                logger.error("message %s to %s is held: %s", name, part.destination, part.held)
        if report is not None:
            self._file_report(report)
        if settlement.remaining or report is not None:
            self.on_change()
        told = report.message if report else None
        return _new(Settled, (settlement, message, told, tuple(delayed)))

    def _warned(
        self,
        before: State,
        delivery: Delivery,
        settlement: Settlement,
        outcomes: Mapping[int, Outcome],
        now: float,
    ) -> tuple[State, Mapping[int, Delay]]:
        """The state after this settlement, and of whom the sender is warned by then."""
        after = _after(before, delivery, settlement.remaining)
        if not (settlement.remaining and self._retry.is_late(before.arrived_at, now)):
            return after, {}
        recall = partial(self.recall, delivery.message_id)
        return warn(after, outcomes, self._retry, now, recall=recall)

    def done(self, message_id: int) -> None:
        """Drop a message, whatever is open of it: nobody is told.

        An attempt under way is not stopped, but has nothing left to settle.
        """
        with self._lock:
            state = self._here(message_id)
            if state is not None:
                self._write(message_id, state._replace(open=()))
                self._standing.forget(message_id, state.open)

    def release(self, message_id: int) -> int:
        """Let what is held of a message be tried again, at once; how many deliveries that is.

        Raises StoreFailed when the message is gone.
        """
        if self._state(message_id) is None:
            raise StoreFailed(f"message {message_name(message_id)} is gone")
        return len(self.orders.release(message_id).parts)

    def flush(self) -> None:
        """What was changed so far is durable on return; StoreFull, StoreFailed if not."""
        self._store.flush()

    def close(self) -> None:
        """Everything settled so far is durable on return."""
        self._store.close()

    # -- inside --------------------------------------------------------------------------

    def _keep_again(self, message: Message) -> None:
        """As from accept to the first attempt.  Else its head would be read once more for the
        settlement, its content for the transaction, and its state at each step."""
        try:
            content = b"".join(self._store.content(message.id))
        except StoreFailed:
            return  # to be said to who sends it
        with self._lock:
            state = self._store.state(message.id)
            if state is not None and self._resident.get(message.id) is None:
                self._resident.keep(message, content, state)

    def _load_list(self) -> None:
        with self._lock:
            found = self._loading.next_list()
            if not found:
                return
            now = self._clock()
            latest = now + self._retry.longest_delay_s
            changed = []
            in_doubt = []
            for message_id, state in found:
                sane = in_time(state, now, latest)
                if sane is not state:
                    changed.append((message_id, sane))
                for part in sane.open:
                    if part.doubt is not None and not part.doubt.told:
                        in_doubt.append((message_id, sane, part))
                self._standing.file(message_id, sane.open)
            if self.on_in_doubt is not None:
                changed += [(message_id, with_told(state)) for message_id, state, _ in in_doubt]
            for message_id, sane in changed:
                self._store.settle(message_id, sane, None)
        self.on_change()
        for message_id, state, part in in_doubt:
            self._tell_in_doubt(message_id, state, part)

    def _tell_in_doubt(self, message_id: int, state: State, part: Open) -> None:
        """An attempt of the process before us ended when that did, behind the final dot."""
        if self.on_in_doubt is None or part.doubt is None:
            return
        delivery = delivery_of(message_id, state, part, part.due_at)
        settlement, told = left_in_doubt(part, part.doubt)
        settled = Settled(settlement, self._message_if_readable(message_id), None)
        self.on_in_doubt(delivery, part.attempts, told, settled)

    def _state(self, message_id: int) -> State | None:
        kept = self._resident.get(message_id)
        return kept.state if kept else self._store.state(message_id)

    def _state_of(self, delivery: Delivery) -> State:
        state = self._state(delivery.message_id)
        if state is None:
            raise AccountingError(f"{delivery} is of a message that is gone")
        return state

    def _here(self, message_id: int) -> State | None:
        """The state of a message that is filed from now on, if its turn to be loaded had not come
        yet; None when it is gone, or about to come."""
        state = None if message_id in self._arriving else self._state(message_id)
        if state is not None and self._loading.awaits(message_id):
            self._loading.overtake(message_id)
            self._standing.file(message_id, state.open)
        return state

    def _write(self, message_id: int, state: State, report: NewMessage | None = None) -> None:
        """`state` is the message's from now on, in the log and in memory."""
        count = self.selfcheck.open_count
        more = 0
        if count is not None and count.has(message_id):
            before = self._state(message_id)
            more = len(state.open) - (0 if before is None else len(before.open))
        self._store.settle(message_id, state if state.open else None, report)
        if count is not None:
            count.parts += more
        if not state.open:
            self._relayed += 1
            self._resident.drop(message_id)
        elif all(part.attempts for part in state.open):
            self._resident.drop(message_id)
        else:
            self._resident.amend(message_id, state)

    def _file_report(self, report: NewMessage) -> None:
        """Let a report wait for delivery, once it can be read back."""
        state = report.state
        try:
            self._store.flush()
        except (StoreFull, StoreFailed) as error:
            logger.warning("a report must wait for the disk: %s", error)
            state = _due_at(state, report.message.arrived_at + _DISK_RETRY_S)
            self._resident.drop(report.message.id)
        with self._lock:
            self._standing.file(report.message.id, state.open)
            self._note_new(report.message.id, state)
            self._arriving.discard(report.message.id)

    def _note_new(self, message_id: int, state: State) -> None:
        """A message waits that the store has since just now."""
        if self.selfcheck.open_count is not None:
            self.selfcheck.open_count.came(message_id, len(state.open))

    def _is_filed(self, message_id: int) -> bool:
        return not (self._loading.awaits(message_id) or message_id in self._arriving)

    def _sync_warnings(self, taken: Iterable[Delivery]) -> None:
        """Before one of those `taken` goes out: what is sent and then forgotten is sent again."""
        if not any(one.is_bounce and one.message_id >= self._unsynced_from for one in taken):
            return
        self._unsynced_from = _NO_ID
        try:
            self._store.flush()
        except (StoreFull, StoreFailed) as error:
            logger.warning("warnings go out that may not be remembered: %s", error)

    def _report(
        self,
        original: Message | None,
        settlement: Settlement,
        delayed: Mapping[int, Delay],
        now: float,
    ) -> NewMessage | None:
        """The DSN owed for this settlement and these delays; None when nobody is owed one."""
        if original is None or not (settlement.owes_dsn or delayed):
            return None
        return reports.report(
            original,
            settlement,
            delayed,
            retry_until=self._retry.expires_at(original.arrived_at, is_bounce=False),
            hostname=self._hostname,
            next_id=self._store.next_id,
            now=now,
            header_section=self._header_section,
        )

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


def _after(before: State, delivery: Delivery, remaining: tuple[Open, ...]) -> State:
    """The state when `remaining` is what stays of `delivery`."""
    arrived_at, is_bounce, parts, sender = before
    number = delivery.part
    if len(parts) != 1 or parts[0].recipients[0] != number or parts[0].warned:
        others = []
        for part in parts:
            if part.recipients[0] != number:
                others.append(part)
            elif part.warned:
                # As it is in the log, where it may have come while the delivery was under way.
                remaining = tuple([one._replace(warned=True) for one in remaining])
        remaining = (*others, *remaining)
    return _new(State, (arrived_at, is_bounce, remaining, sender))


def _due_at(state: State, due_at: float) -> State:
    return state._replace(open=tuple(part._replace(due_at=due_at) for part in state.open))


def _wanted(message: Message | None, late: Mapping[int, Delay]) -> Mapping[int, Delay]:
    """Those that the sender wants to hear of; none when nobody can tell who that is."""
    return reports.wanted(message, late) if late and message is not None else {}


def _forgotten(message_id: int, number: int) -> None:
    """Nobody remembers."""


def _alone(delivery: Delivery) -> bool:
    """There are no others."""
    return False


def _nothing() -> None:
    """Nobody listens yet."""
