"""Waiting for others: for a turn, and for what somebody else is about to know.

Of plain locks.  threading's Semaphore and Event ask their condition on each release whether they
own it, and under gevent that question costs the greenlet its turn: three times for each domain
looked up, a fifth of all that a lookup costs (bench/mx.py, mx_distinct).
"""

import threading
from collections import deque
from types import TracebackType


class Turns:
    """At most so many inside at a time; the others wait, first come first served.

    with turns:
        ...
    """

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._lock = threading.Lock()
        self.waiting: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            turn = threading.Lock()
            turn.acquire()
            self.waiting.append(turn)
        try:
            turn.acquire()  # until one who leaves releases it
        except BaseException:  # killed while it waited, or just when its turn had come
            self._give_up(turn)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            if self.waiting:
                self.waiting.popleft().release()
            else:
                self._free += 1

    def _give_up(self, turn: threading.Lock) -> None:
        with self._lock:
            if turn in self.waiting:
                self.waiting.remove(turn)
                return
        self.__exit__(None, None, None)


class Landing:
    """Happens once; wait() returns after it has."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.waiting: list[threading.Lock] | None = []

    def wait(self) -> None:
        with self._lock:
            if self.waiting is None:
                return
            woken = threading.Lock()
            woken.acquire()
            self.waiting.append(woken)
        woken.acquire()

    def land(self) -> None:
        with self._lock:
            waiting, self.waiting = self.waiting or [], None
        for woken in waiting:
            woken.release()
