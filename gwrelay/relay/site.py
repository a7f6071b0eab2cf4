"""One site: the exchanges some destinations share, and what is going on with them now.

Owns the site's live state (ready deliveries, window, open relayers); never the messages
behind it, which are the Queue's.
"""

import threading
from collections.abc import Callable, Hashable
from heapq import heapify, heappop, heappush
from struct import Struct

from gwrelay.message.outcome import Outcome
from gwrelay.queue.delivery import Delivery
from gwrelay.relay.fairline import FairLine
from gwrelay.relay.hosts import SiteHosts
from gwrelay.relay.pool import Health, Pool
from gwrelay.relay.shaping import Window

#: Seconds an attempt may take on the average, or one in hand so far, at a site that is well.
SLOW_S = 5.0
#: Share of the newest attempt in that average.
_NEWEST = 0.2
#: Seconds between the turns of deliveries that wait for a dead site.
_TURN_S = 0.002

#: When it arrived, its entry in the queue, message id, part.  A million may be asleep: bytes, which
#: sort as the numbers do, and which the garbage collector does not follow.
_SLEEPER = Struct(">dQQI")


class Site:
    """`limit` and `initial` are of its window; `pool` bounds it together with all others."""

    def __init__(
        self,
        key: Hashable,
        name: str,
        limit: int,
        hosts: SiteHosts,
        *,
        initial: int = 0,
        pool: Pool | None = None,
    ) -> None:
        self.key = key
        #: For people: the exchanges, or the smart hosts.
        self.name = name
        self.hosts = hosts
        #: Deliveries that wait for a relayer.
        self.ready = FairLine()
        #: Relayers that work for this site, idle ones included.
        self.relayers = 0
        #: Unix seconds; until then every address of it is marked bad.
        self.dead_until = 0.0
        #: Why no host could be reached, the last time that was so.
        self.last_failure: Outcome | None = None
        self.health = Health.UNKNOWN
        #: Called when it could use another relayer, and could not before.
        self.on_want: Callable[[Site], None] = _nobody_cares
        self._pool = pool or Pool(limit)
        self._window = Window(limit, initial or limit)
        #: Of attempts that ended, smoothed.
        self._seconds = 0.0
        #: Deliveries that its relayers took one after the other.
        self._served = 0
        #: Deliveries that wait in the queue for this site to come back, oldest first; which of
        #: them still do, the queue knows.
        self._asleep: list[bytes] = []
        self._prune_above = 1000
        #: Deliveries put to sleep since the site died the last time.
        self._put_to_sleep = 0
        # The most recently used session comes first, so that those in excess stay idle and
        # are closed.
        self._idle: list[_Idle] = []

    def put(self, delivery: Delivery) -> None:
        """Hand `delivery` to a relayer that idles; without one it is ready for the next.

        Handed over, not left for whoever comes: a relayer woken in vain would close a good
        session, and the next message would have to open another.
        """
        if self._idle:
            self._wake_one(delivery)
        else:
            self.ready.append(delivery)
            self.on_want(self)

    def take(self, idle_s: float) -> Delivery | None:
        """The next ready delivery, waiting up to `idle_s` for one; None when the relayer
        that asks should go: nothing came, the site has shrunk below its relayers, or it is
        another one's turn."""
        self._served += 1
        if self.relayers > self._window.sessions or self._gives_way():
            return None
        if self.ready:
            return self.ready.popleft()
        return self._idle_for(idle_s) if idle_s > 0 else None

    def _gives_way(self) -> bool:
        if not self._pool.gives_way(self.relayers, self._served, self.health):
            return False
        self._served = 0
        return True

    def _idle_for(self, idle_s: float) -> Delivery | None:
        idle = _Idle()
        self._idle.append(idle)
        self._pool.note_idle(self, is_idle=True)
        if not idle.woken.wait(idle_s):
            try:
                self._idle.remove(idle)
            except ValueError:
                # Chosen in the moment the time ran out: what it was chosen for is coming.
                idle.woken.wait()
            else:
                self._pool.note_idle(self, is_idle=bool(self._idle))
        return idle.delivery

    def _wake_one(self, delivery: Delivery | None) -> None:
        idle = self._idle.pop()
        self._pool.note_idle(self, is_idle=bool(self._idle))
        idle.hand(delivery)

    def release(self) -> None:
        """Wake every idle relayer, so that it can end."""
        while self._idle:
            self._wake_one(None)

    def release_one(self) -> None:
        """Likewise that which idles longest."""
        if self._idle:
            idle = self._idle.pop(0)
            self._pool.note_idle(self, is_idle=bool(self._idle))
            idle.hand(None)

    def add_relayer(self) -> None:
        self.relayers += 1
        self._pool.count(1, self.health)

    def remove_relayer(self) -> None:
        self.relayers -= 1
        self._pool.count(-1, self.health)
        if self.wanted():
            self.on_want(self)

    def wanted(self) -> int:
        """How many more relayers this site could use: one for each ready delivery, within
        the window."""
        return max(0, min(len(self.ready), self.window - self.relayers))

    def put_back(self, delivery: Delivery) -> None:
        """What a relayer took and could not even try; it is the next one's turn again."""
        if self._idle:
            self._wake_one(delivery)
        else:
            self.ready.appendleft(delivery)
            self.on_want(self)

    def take_ready(self) -> list[Delivery]:
        """Everything that waits for a relayer, which has none to wait for now."""
        taken = list(self.ready)
        self.ready.clear()
        return taken

    def sleep(self, delivery: Delivery, waits: Callable[[int], bool]) -> None:
        """Remember that `delivery` waits in the queue because this site is dead.

        `waits(entry)` says whether another one still does; those that had their turn and are
        asleep again would be remembered twice.
        """
        about = delivery.arrived_at, delivery.entry, delivery.message_id, delivery.part
        heappush(self._asleep, _SLEEPER.pack(*about))
        if len(self._asleep) > self._prune_above:
            self._asleep = [one for one in self._asleep if waits(_SLEEPER.unpack(one)[1])]
            heapify(self._asleep)
            self._prune_above = max(1000, 2 * len(self._asleep))

    def next_turn(self) -> float:
        """Unix seconds at which the next delivery that finds the site dead asks again.

        In the order they come, some time apart: the first of them is the probe, and if that
        fails the others need not all be looked at.
        """
        self._put_to_sleep += 1
        return self.dead_until + (self._put_to_sleep - 1) * _TURN_S

    def wake(self, hasten: Callable[[int, int, int], bool]) -> None:
        """Let as many of those asleep be due as the window can use soon, the oldest first.

        `hasten(entry, message_id, part)` makes one due and says whether it was asleep at all.
        """
        room = 2 * self.window - len(self.ready)
        while room > 0 and self._asleep:
            if hasten(*_SLEEPER.unpack(heappop(self._asleep))[1:]):
                room -= 1

    def note_success(self, took_s: float = 0.0, *, throttled: bool = False) -> None:
        """A host of the site was reached, and answered MAIL or later, after `took_s` in all.

        `throttled`: by "slow down", which is an answer as well.
        """
        self.dead_until = 0.0
        self._seconds += _NEWEST * (took_s - self._seconds)
        self._turn(Health.WELL if self._seconds <= SLOW_S else Health.BAD)
        if throttled:
            self._window.note_throttled()
            return
        self._window.note_success(self.relayers)
        if self.relayers < self._window.sessions and self.ready:
            self.on_want(self)

    def note_slow(self) -> None:
        """An attempt in hand has taken longer than one may at a site that is well."""
        self._turn(Health.BAD)

    def note_no_connection(self, dead_until: float, why: Outcome) -> None:
        """`dead_until` is 0.0 when some host is not marked: it refused, but it is alive."""
        self.last_failure = why
        self.note_dead(dead_until)

    def note_dead(self, dead_until: float) -> None:
        """Each of its hosts is marked until then, by whomever."""
        if dead_until != self.dead_until:
            self._put_to_sleep = 0
        self.dead_until = dead_until
        others = self.hosts.sessions
        self._window.note_refused(others)
        if not others:
            self._turn(Health.BAD)

    def _turn(self, health: Health) -> None:
        if health is not self.health:
            self._pool.turned(self.relayers, self.health, health)
            self.health = health

    @property
    def window(self) -> int:
        """As many relayers it may have."""
        return self._window.sessions

    @property
    def still_works(self) -> bool:
        """Whether it has sessions that carry mail, though another one was refused."""
        return self.hosts.sessions > 0 and not self.hosts.all_marked_until

    @property
    def is_full(self) -> bool:
        """No further relayer may come: what is ready waits for those that are there."""
        return self.relayers >= self._window.sessions

    @property
    def is_unused(self) -> bool:
        return not self.ready and not self.relayers

    @property
    def is_worth_keeping(self) -> bool:
        """Though unused: what was learned of it would be lost, or who waits for it."""
        is_known = self.health is Health.WELL or self._window.has_learned
        return is_known or bool(self.dead_until or self._asleep)

    @property
    def has_sleepers(self) -> bool:
        return bool(self._asleep)


class _Idle:
    """A relayer without a delivery, until it is handed one, or None to end."""

    __slots__ = ("delivery", "woken")

    def __init__(self) -> None:
        self.woken = threading.Event()
        self.delivery: Delivery | None = None

    def hand(self, delivery: Delivery | None) -> None:
        self.delivery = delivery
        self.woken.set()


def _nobody_cares(_site: Site) -> None:
    """Whoever looks at wanted() by himself."""
