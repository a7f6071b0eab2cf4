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
        # The most recently used session comes first, so that those in excess stay idle and
        # are closed.
        self._idle: list[_Idle] = []

    def put(self, delivery: Delivery) -> None:
        """Hand `delivery` to a relayer that idles; without one it is ready for the next.

        Handed over, not left for whoever comes: a relayer woken in vain would close a good
        session, and the next message would have to open another.
        """
        if self._idle:
            self._idle.pop().hand(delivery)
        else:
            self.ready.append(delivery)

    def take(self, idle_s: float) -> Delivery | None:
        """The next ready delivery, waiting up to `idle_s` for one; None when the relayer
        that asks should go: nothing came, or the site has shrunk below its relayers."""
        if self.relayers > self._window:
            return None
        if self.ready:
            return self.ready.popleft()
        return self._idle_for(idle_s) if idle_s > 0 else None

    def _idle_for(self, idle_s: float) -> Delivery | None:
        idle = _Idle()
        self._idle.append(idle)
        if not idle.woken.wait(idle_s):
            try:
                self._idle.remove(idle)
            except ValueError:
                # Chosen in the moment the time ran out: what it was chosen for is coming.
                idle.woken.wait()
        return idle.delivery

    def release(self) -> None:
        """Wake every idle relayer, so that it can end."""
        while self._idle:
            self._idle.pop().hand(None)

    def wanted(self) -> int:
        """How many more relayers this site could use: one for each ready delivery, within
        the window."""
        return max(0, min(len(self.ready), self._window - self.relayers))

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
    def is_full(self) -> bool:
        """No further relayer may come: what is ready waits for those that are there."""
        return self.relayers >= self._window

    @property
    def is_unused(self) -> bool:
        return not self.ready and not self.relayers


class _Idle:
    """A relayer without a delivery, until it is handed one, or None to end."""

    __slots__ = ("delivery", "woken")

    def __init__(self) -> None:
        self.woken = threading.Event()
        self.delivery: Delivery | None = None

    def hand(self, delivery: Delivery | None) -> None:
        self.delivery = delivery
        self.woken.set()
