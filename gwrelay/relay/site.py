"""One site: the exchanges some destinations share, and what is going on with them now.

Owns the site's live state (ready deliveries, window, open relayers); never the messages
behind it, which are the Queue's.
"""

import threading
from collections import deque
from collections.abc import Hashable

from gwrelay.message.outcome import Outcome
from gwrelay.queue.delivery import Delivery
from gwrelay.relay import shaping
from gwrelay.relay.hosts import SiteHosts


class Site:
    def __init__(self, key: Hashable, name: str, limit: int, hosts: SiteHosts) -> None:
        self.key = key
        #: For people: the exchanges, or the smart hosts.
        self.name = name
        self.hosts = hosts
        #: Deliveries that wait for a relayer, oldest first.
        self.ready: deque[Delivery] = deque()
        #: Relayers that work for this site, idle ones included.
        self.relayers = 0
        #: Unix seconds; until then every address of it is marked bad.
        self.dead_until = 0.0
        #: Why no host could be reached, the last time that was so.
        self.last_failure: Outcome | None = None
        self._limit = limit
        self._window = limit
        # The most recently used session is woken first, so that those in excess stay idle
        # and are closed.
        self._idle: list[threading.Event] = []
        # Relayers inside _wait(): idle, or woken and not running yet.
        self._waiting = 0

    def put(self, delivery: Delivery) -> None:
        """Make `delivery` ready, and wake a relayer that idles."""
        self.ready.append(delivery)
        if self._idle:
            self._idle.pop().set()

    def take(self, idle_s: float) -> Delivery | None:
        """The next ready delivery, waiting up to `idle_s` for one; None when the relayer
        that asks should go: nothing came, or the site has shrunk below its relayers."""
        if self.relayers > self._window:
            return None
        if not self.ready and idle_s > 0:
            self._wait(idle_s)
        return self.ready.popleft() if self.ready else None

    def _wait(self, idle_s: float) -> None:
        woken = threading.Event()
        self._idle.append(woken)
        self._waiting += 1
        if not woken.wait(idle_s) and woken in self._idle:
            self._idle.remove(woken)
        self._waiting -= 1

    def release(self) -> None:
        """Wake every idle relayer, so that it can end."""
        while self._idle:
            self._idle.pop().set()

    def wanted(self) -> int:
        """How many more relayers this site could use: one for each delivery that nobody is
        on the way to take, within the window."""
        return max(0, min(len(self.ready) - self._waiting, self._window - self.relayers))

    def take_ready(self) -> list[Delivery]:
        """Everything that waits for a relayer, which has none to wait for now."""
        taken = list(self.ready)
        self.ready.clear()
        return taken

    def note_success(self) -> None:
        self.dead_until = 0.0
        self._window = shaping.after_success(self._window, self._limit)

    def note_no_connection(self, dead_until: float, why: Outcome) -> None:
        """`dead_until` is 0.0 when some host is not marked: it refused, but it is alive."""
        self.dead_until = dead_until
        self.last_failure = why
        self._window = shaping.after_no_connection()

    @property
    def is_unused(self) -> bool:
        return not self.ready and not self.relayers
