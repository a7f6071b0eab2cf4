"""What `gwrelay queue retry` does about mail in doubt: only who names it cuts its wait short."""

from typing import Any

import pytest

from gwrelay.admin.queueverbs import verb_handlers
from gwrelay.message.envelope import message_name
from gwrelay.queue.mailqueue import Queue
from gwrelay.queue.memorystore import MemoryStore
from gwrelay.queue.retry import HOLD, RETRY, WAIT, RetryPolicy
from support.mail import CONTENT, DEFERRED, IN_DOUBT, envelope
from support.table_resolver import SetClock


class Doubtful:
    """A message of which one part is deferred, and the other in doubt."""

    def __init__(self, in_doubt: str = WAIT) -> None:
        self.clock = SetClock()
        policy = RetryPolicy((600,), jitter=0.0, in_doubt=in_doubt, in_doubt_wait_s=900)
        self.queue = Queue(MemoryStore(), retry=policy, clock=self.clock)
        self.id = self.queue.add_message(envelope("u@b.test", "u@c.test"), CONTENT)
        for delivery in self.queue.get_waiting():
            told = DEFERRED if delivery.destination == "b.test" else IN_DOUBT
            self.queue.settle(delivery, {delivery.part: told})

    def retry(self, *words: str, everything: bool = False, dry_run: bool = False) -> dict[str, Any]:
        """What the command tells in the end."""
        do = verb_handlers(self.queue)["queue retry"]
        [told] = do(words=list(words), everything=everything, dry_run=dry_run)
        return {name: told[name] for name in ("deliveries", "in_doubt")}

    def due(self) -> list[str]:
        return sorted(delivery.destination for delivery in self.queue.get_waiting())


@pytest.mark.parametrize("dry_run", [False, True])
def test_what_is_in_doubt_is_not_tried_before_its_time_with_many_others(dry_run: bool) -> None:
    doubtful = Doubtful()
    told = doubtful.retry(everything=True, dry_run=dry_run)
    assert told == {"deliveries": 1, "in_doubt": 1}
    assert doubtful.retry("domain:c.test", dry_run=dry_run) == {"deliveries": 0, "in_doubt": 1}
    assert doubtful.due() == ([] if dry_run else ["b.test"])


def test_what_is_in_doubt_is_tried_when_it_is_named() -> None:
    doubtful = Doubtful()
    told = doubtful.retry(message_name(doubtful.id), "domain:c.test")
    assert told == {"deliveries": 1, "in_doubt": 0}
    assert doubtful.due() == ["c.test"]


def test_what_is_in_doubt_and_has_waited_for_that_is_tried_like_any_other() -> None:
    """As when its host is out of reach since."""
    doubtful = Doubtful()
    doubtful.clock.advance(900)
    assert doubtful.retry(everything=True) == {"deliveries": 2, "in_doubt": 0}


def test_where_doubt_makes_no_difference_it_makes_none_here() -> None:
    assert Doubtful(RETRY).retry(everything=True) == {"deliveries": 2, "in_doubt": 0}
    assert Doubtful(HOLD).retry(everything=True) == {"deliveries": 1, "in_doubt": 0}


def test_what_is_in_doubt_and_on_hold_is_left_alone_as_held() -> None:
    doubtful = Doubtful()
    doubtful.queue.orders.hold(doubtful.id, "stop", {1})
    assert doubtful.retry(everything=True) == {"deliveries": 1, "in_doubt": 0}
