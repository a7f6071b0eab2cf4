"""Deliveries that wait for a relayer of one site, in the order in which senders take turns.  Pure.

Deficit round robin (Shreedhar and Varghese, 1995): each sender in turn may send one transaction;
a delivery to many recipients takes several, and waits until its sender has as many.  So a
campaign of 20,000 messages delays the next sender's password mail by one of them.  What a sender
is, the queue decides: see `--fair-by`.  Bounces are a sender of their own in any case: a storm of
them goes by turns with all other mail.

First attempts come before further ones, but not all: of four deliveries at least one is a
further attempt, if there are any.  Neither starves.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from gwrelay.queue.delivery import Delivery

#: Recipients of one transaction: what a delivery costs is counted in these.
_AT_ONCE = 50
#: First attempts in a row while further ones wait.
_IN_A_ROW = 3


class FairLine:
    """As a deque of deliveries, as far as it goes, but for the order."""

    def __init__(self) -> None:
        self._first, self._further = _Turns(), _Turns()
        self._count = 0
        self._in_a_row = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Delivery]:
        """Sender by sender, not in the order of their turns."""
        return chain(self._first, self._further)

    def append(self, delivery: Delivery) -> None:
        self._turns_of(delivery).append(delivery)
        self._count += 1

    def extend(self, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            self.append(delivery)

    def appendleft(self, delivery: Delivery) -> None:
        """Put back what popleft() gave: it is the next of its kind."""
        self._turns_of(delivery).appendleft(delivery)
        self._count += 1

    def popleft(self) -> Delivery:
        """IndexError when there is none."""
        if self._first.senders and (self._in_a_row < _IN_A_ROW or not self._further.senders):
            self._in_a_row += 1
            delivery = self._first.popleft()
        else:
            self._in_a_row = 0
            delivery = self._further.popleft()
        self._count -= 1
        return delivery

    def clear(self) -> None:
        self._first, self._further = _Turns(), _Turns()
        self._count = 0

    def has_like(self, delivery: Delivery) -> bool:
        """Whether its sender has another one of its kind here."""
        return delivery.turn in self._turns_of(delivery).senders

    def remove(self, unwanted: Callable[[Delivery], object]) -> list[Delivery]:
        """Take out all that are `unwanted`; the others stay in their order."""
        found = [*self._first.remove(unwanted), *self._further.remove(unwanted)]
        self._count -= len(found)
        return found

    def _turns_of(self, delivery: Delivery) -> "_Turns":
        return self._further if delivery.attempts else self._first


class _Sender:
    __slots__ = ("credit", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Delivery] = deque()
        #: Transactions that it may send.
        self.credit = 0


class _Turns:
    def __init__(self) -> None:
        #: Those with something to send, by number, the one whose turn it is first.  In a dict that
        #: is turned round, finding the first costs time for each that was there before.
        self.senders: OrderedDict[int, _Sender] = OrderedDict()

    def __iter__(self) -> Iterator[Delivery]:
        return chain.from_iterable(sender.waiting for sender in self.senders.values())

    def append(self, delivery: Delivery) -> None:
        self._sender_of(delivery).waiting.append(delivery)

    def appendleft(self, delivery: Delivery) -> None:
        sender = self._sender_of(delivery)
        sender.waiting.appendleft(delivery)
        sender.credit += cost_of(delivery)
        self.senders.move_to_end(delivery.turn, last=False)

    def popleft(self) -> Delivery:
        senders = self.senders
        if not senders:
            raise IndexError("nothing waits")
        while True:
            number, sender = next(iter(senders.items()))
            if len(senders) > 1:
                del senders[number]
                cost = cost_of(sender.waiting[0])
                sender.credit += sender.credit < cost
                if sender.credit < cost:
                    senders[number] = sender
                    continue
                sender.credit -= cost
                if len(sender.waiting) > 1:
                    senders[number] = sender
            elif len(sender.waiting) == 1:  # whoever is alone need not save
                del senders[number]
            return sender.waiting.popleft()

    def remove(self, unwanted: Callable[[Delivery], object]) -> list[Delivery]:
        found: list[Delivery] = []
        for number, sender in list(self.senders.items()):
            staying: deque[Delivery] = deque()
            for delivery in sender.waiting:
                (found if unwanted(delivery) else staying).append(delivery)
            sender.waiting = staying
            if not staying:
                del self.senders[number]
        return found

    def _sender_of(self, delivery: Delivery) -> _Sender:
        turn = delivery.turn
        sender = self.senders.get(turn)
        if sender is None:
            sender = self.senders[turn] = _Sender()
        return sender


def cost_of(delivery: Delivery) -> int:
    """In transactions."""
    return -(-len(delivery.recipients) // _AT_ONCE)
