"""What an operator orders of messages: hold, release, retry, drop.  Part of the Queue.

Each order is about one message, all of its parts or some, and costs no more with many messages
than with few.  What it changes is in the log when it returns, and durable after Queue.flush().
A part that is being relayed is left alone, unless it only waits for a session: the next hop may
just be taking it.
"""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import NamedTuple

from gwrelay.queue.delivery import Delivery
from gwrelay.queue.standing import HELD, RELAYING, WAITING, Standing, delivery_of
from gwrelay.queue.store import Open, State


class Obeyed(NamedTuple):
    """`parts` could be as the order wants them, and are now; `busy` more are being relayed."""

    parts: tuple[Open, ...]
    busy: int


_NOTHING = Obeyed((), 0)


def _never(state: State, part: Open) -> bool:
    """No part is as the order wants it yet."""
    return False


class Orders:
    """`here` gives the state of a message that is filed, None when it is gone; `write` makes one
    the newest.  Both, and `standing`, only under `lock`.  `changed` is told that something is
    due sooner.  `is_in_line` says of a delivery that waits, and is due, whether it waits for
    nothing but its turn.
    """

    def __init__(
        self,
        lock: AbstractContextManager[object],
        standing: Standing,
        here: Callable[[int], State | None],
        write: Callable[[int, State], None],
        clock: Callable[[], float],
        changed: Callable[[], None],
        is_in_line: Callable[[Delivery], bool],
    ) -> None:
        self._lock = lock
        self._standing = standing
        self._here = here
        self._write = write
        self._clock = clock
        self._changed = changed
        self._is_in_line = is_in_line

    # Everywhere `numbers` are those of the parts that are meant (their first recipients), by
    # default all; a message that is gone has none.

    def hold(self, message_id: int, reason: str, numbers: Collection[int] | None = None) -> Obeyed:
        """Keep what waits until it is released.  `reason` is for people, and not empty."""
        return self._obey(
            message_id,
            numbers,
            (WAITING,),
            lambda part: part._replace(held=reason),
            self._standing.hold,
        )

    def release(self, message_id: int, numbers: Collection[int] | None = None) -> Obeyed:
        """Let what is held be tried again, at once."""
        now = self._clock()
        return self._obey(
            message_id,
            numbers,
            (HELD,),
            lambda part: part._replace(held="", due_at=now),
            self._standing.release,
        )

    def retry(self, message_id: int, numbers: Collection[int] | None = None) -> Obeyed:
        """Let what waits be due now, whatever it waits for.

        What the log has due already is so after a restart too: nothing is written of it.  And
        what is in line then has nothing to gain: its turn comes no sooner.
        """
        now = self._clock()

        def is_in_line(state: State, part: Open) -> bool:
            return part.due_at <= now and self._is_in_line(
                delivery_of(message_id, state, part, part.due_at)
            )

        return self._obey(
            message_id,
            numbers,
            (WAITING,),
            lambda part: part if part.due_at <= now else part._replace(due_at=now),
            self._standing.put_forward,
            recalls=False,
            obeys=is_in_line,
        )

    def drop(self, message_id: int, numbers: Collection[int] | None = None) -> Obeyed:
        """Have done with what waits or is held: nobody is told."""
        return self._obey(
            message_id,
            numbers,
            (WAITING, HELD),
            lambda part: None,
            lambda message_id, part: self._standing.forget(message_id, (part,)),
        )

    def _obey(
        self,
        message_id: int,
        numbers: Collection[int] | None,
        words: Collection[str],
        changed: Callable[[Open], Open | None],
        move: Callable[[int, Open], None],
        *,
        recalls: bool = True,
        obeys: Callable[[State, Open], bool] = _never,
    ) -> Obeyed:
        """Replace the parts that stand as one of `words` says, by what `changed` makes of each
        (None: nothing), and move them to where they stand then.  With `recalls` what only waits
        for a session waits for an order as well.  What `obeys` already stays as it is, and where
        it is."""
        with self._lock:
            state = self._here(message_id)
            if state is None:
                return _NOTHING
            after: list[Open] = []
            moved: list[Open] = []
            stayed: list[Open] = []
            busy = 0
            writes = False
            for part in state.open:
                word = self._standing.word(message_id, part)
                if numbers is not None and part.recipients[0] not in numbers:
                    after.append(part)
                    continue
                if word == RELAYING and recalls and WAITING in words:
                    word = WAITING if self._standing.recall(message_id, part) else RELAYING
                if word not in words:
                    busy += word == RELAYING
                    after.append(part)
                elif obeys(state, part):
                    stayed.append(part)
                    after.append(part)
                else:
                    new = changed(part)
                    moved.append(new or part)
                    if new is not None:
                        after.append(new)
                    writes = writes or new is not part
            if writes:
                # First in the log: what that refuses must not have happened in memory.
                self._write(message_id, state._replace(open=tuple(after)))
            for part in moved:
                move(message_id, part)
        if moved:
            self._changed()
        return Obeyed((*stayed, *moved), busy)
