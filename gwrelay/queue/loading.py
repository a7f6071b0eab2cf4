"""What a store held when it was opened, on its way into the queue, list by list.

Mail is accepted, settled and dropped meanwhile; this keeps each message from being filed
twice, and from being filed after its end.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable

from gwrelay.errors import StoreFailed
from gwrelay.queue.store import State, Store

logger = logging.getLogger(__name__)

#: Seconds of loading in one go: at least, and, when the others have taken longer since the last,
#: as long as they, but not for ever.  So half of the time is theirs while they need it, and
#: nearly all is loading's while they do not.
_SLICE_S, _LONGEST_SLICE_S = 0.01, 0.02
#: Seconds between.  Not 0: gevent looks at its sockets only when every greenlet waits for
#: something.
_PAUSE_S = 0.001
#: Seconds to leave a failing disk alone.
_DISK_RETRY_S = 60.0
#: Seconds between two lines of the log about how far it is.
_TOLD_S = 5.0


class Loading:
    """Messages of an id from `until` on are none of its business: they came later."""

    def __init__(self, store: Store, until: int = sys.maxsize) -> None:
        self._store = store
        self._until = until
        self._lists = store.load()
        #: All of an id up to this one have been given out, or were not there.
        self._reached = -1
        #: Dealt with before their turn came.
        self._overtaken: set[int] = set()
        self.messages = 0
        self.is_complete = False

    def next_list(self) -> list[tuple[int, State]]:
        """What is to be filed next.  Raises StoreFailed; the next call goes on after that."""
        try:
            found = next(self._lists, None)
        except StoreFailed:
            self._lists = self._store.load()
            raise
        if found is None:
            self.is_complete = True
            self._overtaken.clear()
            return []
        if not found:
            return found
        first, last = found[0][0], found[-1][0]
        if self._overtaken or first <= self._reached or last >= self._until:
            found = [(n, state) for n, state in found if self.awaits(n)]
        self._reached = max(self._reached, last)
        self.messages += len(found)
        return found

    def run(self, stop: threading.Event, file_list: Callable[[], None]) -> None:
        """Until all is given out or `stop` is set: `file_list` files the next_list().

        It leaves what it does not file as durable as before.  A disk that fails is tried again.
        """
        told = paused = time.monotonic()
        pause_s = 0.0
        while not self.is_complete and not stop.wait(pause_s):
            pause_s = _PAUSE_S
            now = time.monotonic()
            until = now + min(max(_SLICE_S, now - paused), _LONGEST_SLICE_S)
            try:
                while now < until and not self.is_complete:
                    file_list()
                    now = time.monotonic()
            except StoreFailed as error:
                logger.error("loading goes on in %g s: %s", _DISK_RETRY_S, error)
                pause_s = _DISK_RETRY_S
            if now - told >= _TOLD_S:
                told = now
                logger.info("loading: %d messages so far", self.messages)
            paused = now

    def awaits(self, message_id: int) -> bool:
        """Whether this message was there at the start, and has not been given out."""
        return (
            not self.is_complete
            and self._reached < message_id < self._until
            and message_id not in self._overtaken
        )

    def overtake(self, message_id: int) -> None:
        """Leave this message out: it is filed already, or gone."""
        self._overtaken.add(message_id)


def in_time(state: State, now: float, latest: float) -> State:
    """`state` without times that a clock gone wrong has written: no message is from the
    future, and none is due after `latest`."""
    if state.arrived_at <= now:
        for part in state.open:
            if part.due_at > latest:
                break
        else:
            return state
    parts = tuple(part._replace(due_at=min(part.due_at, latest)) for part in state.open)
    return state._replace(arrived_at=min(state.arrived_at, now), open=parts)


def with_told(state: State) -> State:
    """`state`, with nothing in it that nobody was told of."""
    parts = tuple(
        part if part.doubt is None else part._replace(doubt=part.doubt._replace(told=True))
        for part in state.open
    )
    return state._replace(open=parts)
