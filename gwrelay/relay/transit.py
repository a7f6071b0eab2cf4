"""Deliveries on their way from one who has them to the next, where each step may wait for the disk:
so that who looks for their owners meanwhile finds these, too.  Pure.
"""

from collections.abc import Iterable, Iterator

from gwrelay.queue.delivery import Delivery


class Transit:
    def __init__(self) -> None:
        self._under_way: set[Delivery] = set()
        #: Steps that ended: it grows while anything moves.
        self.ended = 0

    def __len__(self) -> int:
        return len(self._under_way)

    def __iter__(self) -> Iterator[Delivery]:
        return iter(self._under_way)

    def each(self, deliveries: Iterable[Delivery]) -> Iterator[Delivery]:
        """One after the other; each is in transit until the next one is asked for.  Who breaks off
        leaves the rest to nobody."""
        some = list(deliveries)
        self._under_way.update(some)
        try:
            for delivery in some:
                yield delivery
                self._under_way.discard(delivery)
                self.ended += 1
        finally:
            self._under_way.difference_update(some)
