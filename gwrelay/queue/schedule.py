"""In memory: what waits, and what is due.  No disk, no clock: `now` is given.

A heap by due time.  Every operation costs O(log n) of what waits, and taking what is due
costs nothing for what is not.
"""

from heapq import heapify, heappop, heappush

from gwrelay.queue.delivery import Delivery


class Schedule:
    def __init__(self) -> None:
        # The running number keeps equal times in order, and deliveries from being compared.
        self._heap: list[tuple[float, int, Delivery]] = []
        self._added = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, delivery: Delivery) -> None:
        """Wait until `delivery.due_at`."""
        self._added += 1
        heappush(self._heap, (delivery.due_at, self._added, delivery))

    def take_due(self, now: float, limit: int) -> list[Delivery]:
        """At most `limit` deliveries whose time has come, earliest first."""
        heap = self._heap
        due: list[Delivery] = []
        while heap and heap[0][0] <= now and len(due) < limit:
            due.append(heappop(heap)[2])
        return due

    def remove(self, message_id: int) -> None:
        """Take every delivery of a message out, due or not.  Costs O(n) of what waits."""
        self._heap = [entry for entry in self._heap if entry[2].message_id != message_id]
        heapify(self._heap)

    @property
    def next_due_at(self) -> float | None:
        """Unix seconds; None when nothing waits."""
        return self._heap[0][0] if self._heap else None
