"""Tells the postmaster of hosts that break the protocol, by mail that is queued like any other.

relay/breaches.py decides of whom, and message/notice.py has the words.  What was told stands in a
file in the spool's top directory: all workers share it, and it outlives them.
"""

import fcntl
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable

import msgspec

from gwrelay.errors import StoreFailed, StoreFull
from gwrelay.message import notice
from gwrelay.message.envelope import Envelope, Message, Recipient
from gwrelay.message.notice import Breach
from gwrelay.queue.mailqueue import Queue
from gwrelay.relay.breaches import Told, after_telling
from gwrelay.spooldirectory import NOTICES

logger = logging.getLogger(__name__)

#: Breaches that wait to be looked at.  Those beyond are as good as told: there is no telling of so
#: many.
_MOST_WAITING = 100
#: Seconds until run() sees that it is to stop.
_LOOK_EVERY_S = 1.0


class Notices:
    """note() what happened; run() tells.  `accepted` is called with each notice that is queued."""

    def __init__(
        self,
        queue: Queue,
        *,
        to: str,
        hostname: str,
        directory: str,
        accepted: Callable[[Message], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._queue = queue
        self._to = to
        self._hostname = hostname
        self._path = os.path.join(directory, NOTICES)
        self._accepted = accepted
        self._clock = clock
        self._waiting: deque[Breach] = deque()
        self._has_come = threading.Event()

    def note(self, breach: Breach) -> None:
        """Never waits for anything."""
        if len(self._waiting) < _MOST_WAITING:
            self._waiting.append(breach)
            self._has_come.set()

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            if self._has_come.wait(_LOOK_EVERY_S):
                self._has_come.clear()
                self.tell()

    def tell(self) -> None:
        """Queue the notices that are due for what was noted."""
        while self._waiting:
            breach = self._waiting.popleft()
            try:
                if self._is_due(breach):
                    self._send(breach)
            except (OSError, StoreFull, StoreFailed) as error:
                logger.warning(
                    "the postmaster is not told of %s[%s]: %s",
                    *(breach.exchange, breach.address, error),
                )

    def _is_due(self, breach: Breach) -> bool:
        """If so, that it is told is remembered, and before it is: twice would be no better than
        never."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with open(descriptor, "r+b") as file:
            # Other workers hold it for no longer than this one.
            fcntl.flock(file, fcntl.LOCK_EX)
            told = after_telling(_read(file.read()), breach, self._clock())
            if told is None:
                return False
            file.seek(0)
            file.truncate()
            file.write(msgspec.json.encode(told))
        return True

    def _send(self, breach: Breach) -> None:
        draft = self._queue.draft()
        content = notice.build(
            breach,
            to=self._to,
            hostname=self._hostname,
            message_id=draft.id,
            now=self._clock(),
        )
        # From the null reverse-path: nobody is told of a notice that fails, and of what happens to
        # mail from there there is no notice.
        self._accepted(draft.accept(Envelope("", (Recipient(self._to),)), content))
        logger.info("the postmaster is told of %s[%s]", breach.exchange, breach.address)


def _read(content: bytes) -> list[Told]:
    """What somebody else left there, or half of it, is nothing to remember."""
    try:
        return msgspec.json.decode(content, type=list[Told])
    except msgspec.MsgspecError:
        return []
