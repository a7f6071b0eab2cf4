"""AttemptManager: every recipient of what a relayer took has an outcome when it is over."""

from collections.abc import Mapping

import pytest

from gwrelay.errors import AccountingError, StoreFailed
from gwrelay.message.outcome import Outcome
from gwrelay.queue.delivery import Delivery
from gwrelay.queue.mailqueue import Queue, Settled
from gwrelay.queue.memorystore import MemoryStore
from gwrelay.queue.store import NewMessage, State, Store
from gwrelay.relay.attempt import settle
from gwrelay.relay.relayer import ManagedRelayerMixin
from support.mail import CONTENT, DEFERRED, DELIVERED, FAILED, UNREACHED, envelope, loaded
from support.relaying import Rig


class Hand:
    """An attempt with one delivery in hand, and a relayer that does nothing by itself."""

    def __init__(self, *recipients: str, store: Store | None = None) -> None:
        self.rig = Rig(store=store)
        [self.delivery] = self.rig.add(envelope(*(recipients or ("a@b.test", "b@b.test"))))
        self.relayer: ManagedRelayerMixin = self.rig.new_relayer()
        self.attempts = self.relayer.attempts
        self.attempts.take(self.delivery)


def test_success_settles_the_delivery_and_opens_the_window() -> None:
    hand = Hand()
    hand.rig.site.note_no_connection(500.0, UNREACHED)
    hand.attempts.notify_success(hand.relayer, hand.delivery, {0: DELIVERED, 1: DELIVERED})
    [end] = hand.rig.ends
    assert (end.attempt, end.kinds) == (1, ["delivered", "delivered"])
    assert len(hand.rig.queue) == 0
    assert hand.rig.site.dead_until == 0.0
    assert hand.attempts.in_hand is None


def test_failure_settles_each_recipient_by_its_outcome() -> None:
    hand = Hand()
    hand.attempts.notify_failure(hand.relayer, hand.delivery, {0: FAILED, 1: DEFERRED})
    [end] = hand.rig.ends
    assert end.kinds == ["failed", "deferred"]
    assert end.settled.report is not None
    assert end.settled.settlement.remaining[0].recipients == (1,)


def test_no_connection_defers_every_recipient_and_tells_whom_it_concerns() -> None:
    hand = Hand()
    hand.attempts.notify_no_connection(hand.relayer, hand.delivery, UNREACHED)
    assert hand.rig.ends[0].told == {0: UNREACHED, 1: UNREACHED}
    assert hand.rig.unreached == [UNREACHED]


def test_done_completes_the_attempt() -> None:
    hand = Hand()
    hand.attempts.notify_success(hand.relayer, hand.delivery, {0: DELIVERED, 1: DELIVERED})
    assert not hand.attempts.completed.is_set()
    hand.attempts.notify_done(hand.relayer)
    assert hand.attempts.completed.is_set()
    assert hand.rig.done == [hand.relayer]
    assert len(hand.rig.ends) == 1


@pytest.mark.parametrize(
    "told",
    [{}, {0: DELIVERED}, {1: FAILED}, {0: DELIVERED, 1: DELIVERED, 2: FAILED}, {7: DELIVERED}],
    ids=["none", "first", "second", "one too many", "a stranger"],
)
def test_a_recipient_without_outcome_is_deferred_and_logged(
    told: dict[int, Outcome], caplog: pytest.LogCaptureFixture
) -> None:
    hand = Hand()
    hand.attempts.notify_failure(hand.relayer, hand.delivery, told)
    assert "relayer ended" in caplog.text
    [end] = hand.rig.ends
    for n in (0, 1):
        if n in told:
            assert end.told[n] is told[n], "what is known counts"
        else:
            assert end.told[n].kind.value == "deferred"
            assert end.told[n].reply.status == "4.3.0"
            assert not end.told[n].heard
    assert set(end.told) == {0, 1}
    hand.attempts.notify_done(hand.relayer)
    assert hand.rig.queue.get_relaying() == []


def test_a_delivery_left_behind_is_deferred_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    hand = Hand()
    hand.attempts.notify_done(hand.relayer)
    assert "relayer ended" in caplog.text
    assert hand.rig.ends[0].kinds == ["deferred", "deferred"]
    assert hand.rig.queue.has_waiting()


def test_a_stopped_relayer_leaves_its_delivery_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    hand = Hand()
    hand.relayer.stopping = True
    hand.attempts.notify_done(hand.relayer)
    assert hand.rig.ends == []
    assert hand.rig.queue.get_relaying() == [hand.delivery]
    assert hand.delivery.attempts == 0
    assert hand.attempts.completed.is_set()
    assert caplog.text == ""


def test_telling_of_what_is_not_in_hand_is_a_bug() -> None:
    hand = Hand()
    [other] = hand.rig.add(envelope("c@b.test"))
    with pytest.raises(AccountingError):
        hand.attempts.notify_success(hand.relayer, other, {0: DELIVERED})
    assert hand.attempts.in_hand is hand.delivery
    hand.attempts.notify_success(hand.relayer, hand.delivery, {0: DELIVERED, 1: DELIVERED})
    with pytest.raises(AccountingError):
        hand.attempts.notify_failure(hand.relayer, hand.delivery, {0: FAILED, 1: FAILED})
    assert len(hand.rig.ends) == 1


def test_the_attempt_is_over_even_if_what_is_left_cannot_be_settled() -> None:
    hand = Hand()
    hand.rig.queue.done(hand.delivery.message_id)
    with pytest.raises(AccountingError):
        hand.attempts.notify_done(hand.relayer)
    assert hand.attempts.completed.is_set()
    assert hand.rig.done == [hand.relayer]


@pytest.mark.parametrize("how", ["dropped", "waits", "taken anew"])
def test_what_is_not_being_relayed_any_more_is_not_begun_with(how: str) -> None:
    rig = Rig()
    [delivery] = rig.add(envelope("a@b.test"))
    if how == "dropped":
        rig.queue.done(delivery.message_id)
    else:
        rig.queue.set_waiting(delivery)
    if how == "taken anew":
        assert len(rig.queue.get_waiting()) == 1
    rig.new_relayer().relay(delivery)
    assert rig.ends == []
    assert len(rig.queue) == (how != "dropped")


def test_what_was_told_about_is_with_the_attempt_until_the_queue_knows() -> None:
    """The disk may take its time."""
    found = []

    class SlowStore(MemoryStore):
        def settle(self, message_id: int, state: State | None, report: NewMessage | None) -> None:
            found.append(hand.attempts.deliveries)
            super().settle(message_id, state, report)

    hand = Hand(store=SlowStore())
    assert hand.attempts.deliveries == [hand.delivery]
    hand.attempts.notify_success(hand.relayer, hand.delivery, {0: DELIVERED, 1: DELIVERED})
    assert found == [[hand.delivery]]
    assert hand.attempts.deliveries == []


# -- settling by itself -----------------------------------------------------------------------


class RefusingStore(MemoryStore):
    error: Exception | None = None

    def settle(self, message_id: int, state: State | None, report: NewMessage | None) -> None:
        if self.error is not None:
            raise self.error
        super().settle(message_id, state, report)


def _nobody(
    delivery: Delivery, attempt: int, told: Mapping[int, Outcome], settled: Settled
) -> None:
    """Nobody wants to know."""


@pytest.mark.parametrize("error", [StoreFailed("no disk"), KeyError("a bug")])
def test_what_cannot_be_written_is_tried_again_from_the_start(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    store = RefusingStore()
    rig = Rig(store=store)
    [delivery] = rig.add(envelope("a@b.test", "b@b.test"))
    store.error = error
    settle(rig.queue, delivery, {0: DELIVERED, 1: DEFERRED}, _nobody)
    assert "could not be settled" in caplog.text
    assert rig.queue.get_waiting() == []
    assert len(rig.queue) == 1
    rig.clock.advance(60)
    store.error = None
    [again] = rig.queue.get_waiting()
    assert (again.recipients, again.attempts) == ((0, 1), 0)
    settle(rig.queue, again, {0: DELIVERED, 1: DELIVERED}, _nobody)
    assert loaded(store) == []


def test_a_listener_that_breaks_costs_nothing_but_a_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_about: object) -> None:
        raise OSError("no room for events")

    queue = Queue(MemoryStore())
    queue.add_message(envelope("b@b.test"), CONTENT)
    [delivery] = queue.get_waiting()
    settle(queue, delivery, {0: DELIVERED}, broken)
    assert "no room for events" in caplog.text
    assert len(queue) == 0
