"""Whether every open part of every message stands exactly once: it waits, and has an entry in the
schedule that counts; or it is being relayed; or it is held.

Goes round again and again, in steps of a millisecond or two between which mail comes and goes,
and takes no more than a small share of one core, however much waits.  In one round

    1. all entries of the schedule are marked, and whatever is added meanwhile: a part without a
       mark has none.  An entry of a part that is being relayed or held is one too many.
    2. all messages of the store are asked for their open parts: one that waits must be marked.
    3. as many parts as were counted so must stand, and as many entries count as parts wait.

A step holds the Queue's lock: what it sees together was so at one time.  What looks wrong is
looked at once more, a moment later.  What is wrong is counted, told in the log and put right: a
part that waits without an entry would be stuck until the next start.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Container, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import chain, islice

from gwrelay.errors import StoreDamaged, StoreFailed, StoreFull
from gwrelay.queue.opencount import OpenCount
from gwrelay.queue.standing import HELD, WAITING, Key, Standing
from gwrelay.queue.store import Open, State, Store
from gwrelay.queue.violations import Violations

logger = logging.getLogger(__name__)

#: Seconds between two rounds.
_EVERY_S = 300.0
#: Share of a core that a round takes: with a million messages it lasts a quarter of an hour.
_SHARE = 0.004
#: Seconds until what looks wrong is looked at again.
_MOMENT_S = 1.0
#: Entries, and messages, in one step (bench/selfcheck.py).
_ENTRIES_AT_ONCE, _MESSAGES_AT_ONCE = 1000, 250


def pause_s(least_s: float, took_s: float) -> float:
    """Seconds to wait after a step that took so many, at least `least_s`."""
    return max(least_s, took_s / _SHARE)


class SelfCheck:
    """Of one Queue.  Its parts, all but the store, are touched under `lock` alone."""

    def __init__(
        self,
        lock: AbstractContextManager[object],
        standing: Standing,
        store: Store,
        state_of: Callable[[int], State | None],
        violations: Violations,
        *,
        arriving: Container[int],
        is_loaded: Callable[[], bool],
        changed: Callable[[], None],
    ) -> None:
        """`state_of` gives a message's newest state, None when it is gone; or StoreDamaged.
        `arriving` are messages that the store may have and that are not filed yet.  `changed` is
        told that something is due sooner."""
        self._lock = lock
        self._standing = standing
        self._schedule = standing.schedule
        self._store = store
        self._state_of = state_of
        self._violations = violations
        self._arriving = arriving
        self._is_loaded = is_loaded
        self._changed = changed
        #: While there is a round: whoever changes what is open tells this, under the lock.
        self.open_count: OpenCount | None = None

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set; from when all that the store held at the start is there."""
        while not stop.wait(_EVERY_S):
            if self._is_loaded():
                try:
                    self._go_round(stop)
                except Exception:
                    logger.exception("self-check")

    def _go_round(self, stop: threading.Event) -> None:
        steps = self.round()
        try:
            began = time.perf_counter()
            for least_s in steps:
                took_s = time.perf_counter() - began
                if stop.wait(pause_s(least_s, took_s)):
                    return
                began = time.perf_counter()
        finally:
            steps.close()

    def round(self) -> Generator[float, None, None]:
        """One round, step by step: at least so many seconds are to pass before the next."""
        is_countable = self._begin()
        try:
            while self._mark_some():
                yield 0.0
            ids = chain.from_iterable(self._store.ids())
            while some := list(islice(ids, _MESSAGES_AT_ONCE)):
                if odd := self._look_at(some):
                    yield _MOMENT_S
                    self._look_again(odd)
                yield 0.0
            if is_countable:
                yield from self._compare_counts()
        finally:
            self._end()

    def _begin(self) -> bool:
        """→ whether ids() has everything that was filed by now: not while the disk refuses it."""
        with self._lock:
            self.open_count = OpenCount(self._store.next_id())
            self._schedule.begin_walk(random.getrandbits(60))
        try:
            self._store.flush()
        except (StoreFull, StoreFailed):
            return False
        return True

    def _end(self) -> None:
        with self._lock:
            self.open_count = None
            self._schedule.end_walk()

    # -- 1. the schedule -----------------------------------------------------------------

    def _mark_some(self) -> bool:
        with self._lock:
            found = self._schedule.walk_on(_ENTRIES_AT_ONCE)
            for number, message_id, part in self._standing.elsewhere_too(found or ()):
                word = self._standing.word_of((message_id, part))
                self._schedule.drop(number)
                self._violations.note_part(
                    message_id, part, f"is {word}, and waits as well", "waits no more"
                )
        return found is not None

    # -- 2. the messages -----------------------------------------------------------------

    def _look_at(self, message_ids: Sequence[int]) -> list[Key]:
        """→ parts that look wrong."""
        odd = []
        with self._lock:
            for message_id in message_ids:
                parts = () if message_id in self._arriving else self._open(message_id)
                if self.open_count is not None:
                    self.open_count.visit(message_id, len(parts))
                for part in parts:
                    if self._looks_wrong(message_id, part):
                        odd.append((message_id, part.recipients[0]))
        return odd

    def _open(self, message_id: int) -> tuple[Open, ...]:
        """What makes no sense was never filed."""
        try:
            state = self._state_of(message_id)
        except StoreDamaged:
            return ()
        return () if state is None else state.open

    def _looks_wrong(self, message_id: int, part: Open) -> bool:
        word = self._standing.word(message_id, part)
        if word == WAITING:
            return bool(part.held) or not self._schedule.is_marked(message_id, part.recipients[0])
        return word == HELD and not part.held

    def _look_again(self, odd: Sequence[Key]) -> None:
        with self._lock:
            for message_id, number in odd:
                for part in self._open(message_id):
                    if part.recipients[0] == number and self._looks_wrong(message_id, part):
                        self._put_right(message_id, part)
        self._changed()

    def _put_right(self, message_id: int, part: Open) -> None:
        """As the log has it."""
        standing, number = self._standing, part.recipients[0]
        if standing.word(message_id, part) == HELD:
            standing.release(message_id, part)
            what, repair = "is held, but not in the log", "waits again"
        elif not self._schedule.is_marked(message_id, number):
            standing.file_lost(message_id, part)
            what, repair = "waits, but has no entry in the schedule", "filed again"
        else:
            standing.hold(message_id, part)
            what, repair = "waits, but is on hold in the log", "held"
        self._violations.note_part(message_id, number, f"for {part.destination}, {what}", repair)

    # -- 3. the counters -----------------------------------------------------------------

    def _compare_counts(self) -> Iterator[float]:
        if self._uncounted():
            yield _MOMENT_S
            yield from self._strike_those_that_are_over()
        with self._lock:
            if (uncounted := self._uncounted()) and self.open_count is not None:
                waiting = self._standing.waiting
                what = f"{waiting} deliveries are said to wait, and {waiting + uncounted} do"
                self._standing.recount(self.open_count.parts)
                self._violations.note(what, "counted again")
            if surplus := self._standing.surplus:
                waiting = self._standing.waiting
                what = (
                    f"{waiting} deliveries wait, with {waiting + surplus} entries in the schedule"
                )
                self._standing.account_for(surplus)
                self._violations.note(what, "those in excess will be passed over")

    def _uncounted(self) -> int:
        """Open parts that stand nowhere; below 0: parts that stand somewhere and are not open."""
        if self.open_count is None:
            return 0
        return self.open_count.parts - len(self._standing)

    def _strike_those_that_are_over(self) -> Iterator[float]:
        with self._lock:
            keys = iter(self._standing.elsewhere())
        while some := list(islice(keys, _MESSAGES_AT_ONCE)):
            with self._lock:
                for message_id, number in some:
                    self._strike_if_over(message_id, number)
            yield 0.0

    def _strike_if_over(self, message_id: int, number: int) -> None:
        word = self._standing.word_of((message_id, number))
        if word != WAITING and all(p.recipients[0] != number for p in self._open(message_id)):
            self._standing.strike((message_id, number))
            self._violations.note_part(message_id, number, f"is {word}, and over", "forgotten")
