"""In memory: what waits, and what is due.  No disk, no clock: `now` is given.

A heap by due time.  Every operation costs O(log n) of what waits, and taking what is due
costs nothing for what is not.
"""

from heapq import heapify, heappop, heappush

from gwrelay.queue.delivery import Delivery


class Schedule:
    def __init__(self) -> None:
        # The running number keeps equal times in order, and deliveries from being compared.
        # An entry whose number is not its delivery's any more is void.
        self._heap: list[tuple[float, int, Delivery]] = []
        self._added = 0
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def add(self, delivery: Delivery) -> None:
        """Wait until `delivery.due_at`."""
        self._waiting += 1
        self._enter(delivery)

    def hasten(self, delivery: Delivery, due_at: float) -> bool:
        """Have a delivery due at `due_at`, if that is sooner; False when it does not wait."""
        if not delivery.entry:
            return False
        if due_at < delivery.due_at:
            delivery.due_at = due_at
            self._enter(delivery)
        return True

    def take_due(self, now: float, limit: int) -> list[Delivery]:
        """At most `limit` deliveries whose time has come, earliest first."""
        heap = self._heap
        due: list[Delivery] = []
        while heap and heap[0][0] <= now and len(due) < limit:
            _, number, delivery = heappop(heap)
            if number == delivery.entry:
                delivery.entry = 0
                due.append(delivery)
        self._waiting -= len(due)
        return due

    def remove(self, message_id: int) -> None:
        """Take every delivery of a message out, due or not.  Costs O(n) of what waits."""
        for _, number, delivery in self._heap:
            if delivery.message_id == message_id and number == delivery.entry:
                delivery.entry = 0
        self._heap = [entry for entry in self._heap if entry[1] == entry[2].entry]
        heapify(self._heap)
        self._waiting = len(self._heap)

    @property
    def next_due_at(self) -> float | None:
        """Unix seconds; None when nothing waits."""
        heap = self._heap
        while heap and heap[0][1] != heap[0][2].entry:
            heappop(heap)
        return heap[0][0] if heap else None

    def _enter(self, delivery: Delivery) -> None:
        self._added += 1
        delivery.entry = self._added
        heappush(self._heap, (delivery.due_at, self._added, delivery))
