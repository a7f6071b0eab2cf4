"""One site: the exchanges some destinations share, and what is going on with them now.

Owns the site's live state (ready deliveries, window, open relayers); never the messages
behind it, which are the Queue's.
"""

import threading
import time
from collections.abc import Callable, Hashable
from typing import Protocol

from gwrelay.message.outcome import Outcome
from gwrelay.queue.delivery import Delivery
from gwrelay.relay.fairline import FairLine
from gwrelay.relay.hosts import SiteHosts
from gwrelay.relay.limits import SiteLimits
from gwrelay.relay.node import ASK_AGAIN_S, NodeSites
from gwrelay.relay.pace import Pace, rates_of, session_key
from gwrelay.relay.parked import Hasten, Parked
from gwrelay.relay.pool import Health, Pool
from gwrelay.relay.shaping import Window

#: Seconds an attempt may take on the average, or one in hand so far, at a site that is well.
SLOW_S = 5.0
#: Share of the newest attempt in that average.
_NEWEST = 0.2
#: Deliveries that are ready at a time: for each session, in all, and seconds' worth of a rate.
#: What is ready is objects in memory; what is parked is not, and can be held or come to its end.
_READY_A_SESSION = 50
_READY = 1000
_READY_S = 60.0
#: So many times that are ready when each has another sender: none is parked behind the others.
_CROWDED = 4


class Event(Protocol):
    """As threading.Event, as far as a relayer waits by it."""

    def set(self) -> None: ...

    def wait(self, seconds: float | None = None, /) -> bool: ...


class Site:
    """`limits` are its own; `pool` bounds it together with all others."""

    def __init__(
        self,
        key: Hashable,
        name: str,
        hosts: SiteHosts,
        limits: SiteLimits,
        *,
        pool: Pool | None = None,
        node: NodeSites | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`node`: what this site has in other workers of the gateway, if there are others."""
        self.key = key
        #: For people: the exchanges, or the smart hosts.
        self.name = name
        self.hosts = hosts
        #: Deliveries that wait for a relayer.
        self.ready = FairLine()
        #: What waits in the queue until there is room for it among these, or the site is back.
        self.parked = Parked()
        #: Relayers that work for this site, idle ones included.
        self.relayers = 0
        #: Unix seconds; until then every address of it is marked bad.
        self.dead_until = 0.0
        #: Why no host could be reached, the last time that was so.
        self.last_failure: Outcome | None = None
        self.health = Health.UNKNOWN
        #: Called when it could use another relayer, and could not before.
        self.on_want: Callable[[Site], None] = _nobody_cares
        #: Called when it could have more ready, and something is parked.
        self.on_room: Callable[[Site], None] = _nobody_cares
        #: Called when its rate, or that of all sites, allows nothing for so many seconds.
        self.on_limited: Callable[[Site, float], None] = _nobody_waits
        self._pool = pool or Pool(limits.concurrency)
        #: That hold now, and those that destinations of it have of their own, the smallest of each.
        self.limits = limits
        self._given: SiteLimits | None = None
        self._window = Window(limits.concurrency, limits.initial)
        self.pace = Pace(limits, self._pool.message_rate, rates_of(key, node, clock))
        self._node = node
        self._node_key = 0 if node is None else session_key(key)
        #: Of attempts that ended, smoothed.
        self._seconds = 0.0
        #: Deliveries that were taken from what is ready.
        self.taken = 0
        #: Deliveries that its relayers took one after the other.
        self._served = 0
        # The most recently used session comes first, so that those in excess stay idle and
        # are closed.
        self._idle: list[_Idle] = []

    # -- what is ready -----------------------------------------------------------------------

    def put(self, delivery: Delivery) -> None:
        """Hand `delivery` to a relayer that idles; without one it is ready for the next.

        Handed over, not left for whoever comes: a relayer woken in vain would close a good
        session, and the next message would have to open another.
        """
        if self._idle and not self.ready and self._may_go():
            self.pace.send(delivery)
            self._wake_one(delivery)
        else:
            delivery.recall = self._recall
            self.ready.append(delivery)
            self.go_on()

    def is_full_up(self, delivery: Delivery) -> bool:
        """Whether enough is ready here, and `delivery` should wait in the queue until it is less.

        What comes of a sender that has nothing ready does not wait behind others.
        """
        if self.parked.has_older(delivery):
            return True
        count, room = len(self.ready), self._room
        if count < room:
            return False
        return count >= _CROWDED * room or self.ready.has_like(delivery)

    @property
    def _room(self) -> int:
        """As many may be ready."""
        room = min(_READY, _READY_A_SESSION * self._window.sessions)
        per_s = self.pace.messages_per_s
        return min(room, max(1, int(_READY_S * per_s))) if per_s else room

    def take(
        self,
        idle_s: float,
        *,
        needs_session: bool = False,
        event: Callable[[], Event] = threading.Event,
    ) -> Delivery | None:
        """The next ready delivery, waiting up to `idle_s` for one; None when the relayer
        that asks should go: nothing came, the site has shrunk below its relayers, or it is
        another one's turn.  `needs_session`: it has none that could carry it.  `event`: what
        it waits by."""
        self._served += 1
        if self.relayers > self._window.sessions or self._gives_way() or self.is_wanted_elsewhere:
            return None
        if needs_session and self.pace.limits_connections:
            return None  # whoever opens the next one may have to wait for that
        if self.ready and self._may_go():
            return self._next()
        return self._idle_for(idle_s, event()) if idle_s > 0 else None

    def start(self) -> Delivery | None:
        """The delivery that another relayer begins with, by opening a session; None when rates
        do not allow that now."""
        wait_s = self.pace.take_connection()
        if wait_s:
            self.on_limited(self, wait_s)
            return None
        node = self._node
        if node is not None and not self._opens_on(node):
            self.pace.give_back_connection()
            self.on_limited(self, ASK_AGAIN_S)
            return None
        if not self._may_go():
            self.pace.give_back_connection()
            if node is not None:
                node.close_session(self._node_key)
            return None
        return self._next()

    def _opens_on(self, node: NodeSites) -> bool:
        """Whether the site may have another session, as far as other workers are concerned; it is
        counted then."""
        return node.open_session(self._node_key, self.limits.concurrency, time.monotonic())

    @property
    def is_full_elsewhere(self) -> bool:
        """Whether all workers together have as many sessions with it as it may have."""
        node = self._node
        return node is not None and node.sessions(self._node_key) >= self.limits.concurrency

    @property
    def is_wanted_elsewhere(self) -> bool:
        """Whether another worker waits for a session with it, and has fewer."""
        node = self._node
        return node is not None and node.is_wanted_elsewhere(self._node_key, time.monotonic())

    @property
    def is_full_everywhere(self) -> bool:
        """Whether all workers together have as many sessions with it as they may."""
        node = self._node
        return node is not None and node.sessions(self._node_key) >= self.limits.concurrency

    def go_on(self, limit: int = _READY) -> bool:
        """Let what is ready go as far as idle relayers, rates and the window allow, at most `limit`
        to those that idle; whether more could go to them."""
        while limit and self._idle and self.ready and self._may_go():
            self._wake_one(self._next())
            limit -= 1
        if limit and self.ready:
            self.on_want(self)
        return not limit and bool(self._idle and self.ready)

    def put_back(self, delivery: Delivery) -> None:
        """What a relayer took and could not even try; it is the next one's turn again."""
        self.pace.refund(delivery)
        delivery.recall = self._recall
        self.ready.appendleft(delivery)
        self.go_on()

    def take_ready(self, unwanted: Callable[[Delivery], object] | None = None) -> list[Delivery]:
        """Everything that waits for a relayer; or all of it that is `unwanted`."""
        if unwanted is None:
            taken = list(self.ready)
            self.ready.clear()
        else:
            taken = self.ready.remove(unwanted)
        for delivery in taken:
            delivery.recall = None
        if taken:
            self._ask_for_more()
        return taken

    def _recall(self, delivery: Delivery) -> bool:
        return bool(self.take_ready(lambda one: one is delivery))

    def _next(self) -> Delivery:
        delivery = self.ready.popleft()
        self.taken += 1
        delivery.recall = None
        self.pace.send(delivery)
        self._ask_for_more()
        return delivery

    def _ask_for_more(self) -> None:
        """Call on_room() if little is ready and something parked; not for the sake of a probe, of
        which nothing is known yet."""
        if self.parked and not self.dead_until and len(self.ready) <= self._room // 2:
            self.on_room(self)

    def wake(self, hasten: Hasten, limit: int = _READY) -> int:
        """Let as many of those that are parked be due as there is room for, `limit` at most; how
        many were."""
        return self.parked.wake(min(limit, self._room - len(self.ready)), hasten)

    # -- limits ------------------------------------------------------------------------------

    def restrict(self, own: SiteLimits) -> None:
        """A destination with limits of its own has mail for this site."""
        given = own if self._given is None else self._given.within(own)
        if given != self._given:
            self._given = self.limits = given
            self._window.set_limit(given.concurrency)
            self.pace.set(given)

    @property
    def limited_for_s(self) -> tuple[float, str]:
        """Seconds until rates allow another message, and the flag of the one that says so."""
        mine_s, everybodys_s, connection_s = self.pace.waits_s
        waits = [
            (mine_s, "site-message-rate"),
            (everybodys_s, "global-message-rate"),
            (0.0 if self.relayers else connection_s, "site-connection-rate"),
        ]
        return max(waits)

    def _may_go(self) -> bool:
        """Whether rates allow another message now, which is counted then; if not, there will be a
        go_on()."""
        wait_s = self.pace.take_message()
        if wait_s:
            self.on_limited(self, wait_s)
            return False
        if not self._pool.may_send(self):
            self.pace.give_back_message()
            return False
        return True

    # -- relayers ----------------------------------------------------------------------------

    def _gives_way(self) -> bool:
        if not self._pool.gives_way(self.relayers, self._served, self.health):
            return False
        self._served = 0
        return True

    def _idle_for(self, idle_s: float, woken: Event) -> Delivery | None:
        idle = _Idle(woken)
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
        if self._node is not None:
            self._node.close_session(self._node_key)
        if self.wanted():
            self.on_want(self)

    def wanted(self) -> int:
        """How many more relayers this site could use: one for each ready delivery, within
        the window.  Whether rates allow any, start() knows."""
        return max(0, min(len(self.ready), self.window - self.relayers))

    # -- what it says ------------------------------------------------------------------------

    def note_success(self, took_s: float = 0.0, *, throttled: bool = False) -> None:
        """A host of the site was reached, and answered MAIL or later, after `took_s` in all.

        `throttled`: by "slow down", which is an answer as well.
        """
        self.dead_until = 0.0
        self._seconds += _NEWEST * (took_s - self._seconds)
        self._turn(Health.WELL if self._seconds <= SLOW_S else Health.BAD)
        if throttled:
            self._window.note_throttled()
        else:
            self._window.note_success(self.relayers)
        if self.relayers < self._window.sessions and self.ready:
            self.on_want(self)
        self._ask_for_more()

    def note_slow(self) -> None:
        """An attempt in hand has taken longer than one may at a site that is well."""
        self._turn(Health.BAD)

    def note_no_connection(self, dead_until: float, why: Outcome) -> None:
        """`dead_until` is 0.0 when some host is not marked: it refused, but it is alive."""
        self.last_failure = why
        self.note_dead(dead_until)

    def note_dead(self, dead_until: float) -> None:
        """Each of its hosts is marked until then, by whomever."""
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
        return is_known or bool(self.dead_until or self.parked)


class _Idle:
    """A relayer without a delivery, until it is handed one, or None to end."""

    __slots__ = ("delivery", "woken")

    def __init__(self, woken: Event) -> None:
        self.woken = woken
        self.delivery: Delivery | None = None

    def hand(self, delivery: Delivery | None) -> None:
        self.delivery = delivery
        self.woken.set()


def _nobody_cares(_site: Site) -> None:
    """Whoever looks at wanted() by himself."""


def _nobody_waits(_site: Site, _wait_s: float) -> None:
    """Whoever calls go_on() in time."""
