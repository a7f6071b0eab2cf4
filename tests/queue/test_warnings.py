"""The Queue and its warnings of delay: one for each recipient, whatever happens in between."""

import shutil
from collections.abc import Callable, Collection
from email import message_from_bytes
from email.message import Message as Block
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from gwrelay.errors import AccountingError, StoreFailed, StoreFull
from gwrelay.message.envelope import Message, Recipient, message_name
from gwrelay.message.outcome import Outcome
from gwrelay.queue.delivery import Delivery
from gwrelay.queue.mailqueue import Queue
from gwrelay.queue.memorystore import MemoryStore
from gwrelay.queue.retry import RetryPolicy
from gwrelay.queue.spoolstore import SpoolStore, open_spool
from gwrelay.queue.store import Host, NewMessage, State, Store
from support.mail import CONTENT, DEFERRED, DELIVERED, FAILED, HELD, IN_DOUBT, UNREACHED, envelope
from support.table_resolver import SetClock

POLICY = RetryPolicy(
    (60, 300), lifetime_s=1000, bounce_lifetime_s=1000, jitter=0.0, delay_warning_s=100
)
HOST = Host("mx.test", "192.0.2.1", 25)


class WatchedStore(MemoryStore):
    """Notes each settlement: whether anything is left, and whether there is a report; counts what
    is read, and fails where a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.settled: list[tuple[bool, bool]] = []
        self.reads = 0
        self.flushes = 0
        self.fails: dict[str, Exception] = {}

    def _check(self, what: str) -> None:
        if what in self.fails:
            raise self.fails[what]

    def message(self, message_id: int) -> Message:
        self._check("message")
        self.reads += 1
        return super().message(message_id)

    def settle(self, message_id: int, state: State | None, report: NewMessage | None) -> None:
        self._check("settle")
        self.settled.append((state is not None, report is not None))
        super().settle(message_id, state, report)

    def flush(self) -> None:
        self._check("flush")
        self.flushes += 1


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def store() -> WatchedStore:
    return WatchedStore()


@pytest.fixture
def queue(store: WatchedStore, clock: SetClock) -> Queue:
    return opened(store, clock)


def opened(store: Store, clock: Callable[[], float], **options: object) -> Queue:
    return Queue(
        store, retry=POLICY, hostname="gw.test", clock=clock, chance=lambda: 0.5, **options
    )


def take(queue: Queue) -> dict[str, Delivery]:
    return {delivery.destination: delivery for delivery in queue.get_waiting()}


def settle(queue: Queue, delivery: Delivery, told: Outcome) -> Message | None:
    return queue.settle(delivery, dict.fromkeys(delivery.recipients, told)).report


def blocks(queue: Queue, report: Message | None) -> dict[str, Block]:
    """What a report says of each recipient."""
    if report is None:
        return {}
    parsed = message_from_bytes(b"".join(queue.get_content(report.id)))
    found = parsed.get_payload()[1].get_payload()[1:]
    return {block["Final-Recipient"].removeprefix("rfc822; "): block for block in found}


def delayed(queue: Queue, report: Message | None) -> list[str]:
    found = blocks(queue, report)
    return [address for address, block in found.items() if block["Action"] == "delayed"]


def heard(queue: Queue) -> list[tuple[int, Message, list[int]]]:
    """The warnings that no attempt has caused, as they come."""
    found: list[tuple[int, Message, list[int]]] = []

    def hear(original: Message, report: Message, recipients: Collection[int]) -> None:
        found.append((original.id, report, list(recipients)))

    queue.on_warned = hear
    return found


# -- after an attempt ------------------------------------------------------------------------


def test_a_sender_is_warned_at_the_first_deferral_that_is_late_and_never_again(
    queue: Queue, store: WatchedStore, clock: SetClock
) -> None:
    arrived_at = clock.now
    queue.add_message(envelope("b@b.test"), CONTENT)
    assert settle(queue, take(queue)["b.test"], DEFERRED) is None
    clock.advance(100)
    settled = queue.settle(take(queue)["b.test"], {0: DEFERRED})
    report = settled.report
    assert report is not None
    assert settled.warned == (0,)
    assert report.envelope == envelope("sender@a.test", reverse_path="")
    block = blocks(queue, report)["b@b.test"]
    assert (block["Action"], block["Status"]) == ("delayed", "4.2.1")
    assert block["Diagnostic-Code"] == "smtp; 450 4.2.1 greylisted"
    until = parsedate_to_datetime(block["Will-Retry-Until"]).timestamp()
    assert until == arrived_at + POLICY.lifetime_s
    assert store.settled[-1] == (True, True), "the mark and the report are one record"
    assert settle(queue, take(queue)["a.test"], DELIVERED) is None
    for _ in range(2):
        clock.advance(300)
        queue = opened(store, clock)
        assert settle(queue, take(queue)["b.test"], DEFERRED) is None
    # Its end is told as ever.
    clock.advance(300)
    settled = queue.settle(take(queue)["b.test"], {0: DEFERRED})
    assert settled.warned == ()
    assert blocks(queue, settled.report)["b@b.test"]["Action"] == "failed"


def test_one_report_is_of_all_that_the_message_has_open(queue: Queue, clock: SetClock) -> None:
    """Whatever it waits for, and also what is in hand."""
    queue.add_message(envelope("a@b.test", "b@b.test", "c@c.test", "d@d.test", "e@e.test"), CONTENT)
    taken = take(queue)
    settle(queue, taken["c.test"], DEFERRED)
    settle(queue, taken["e.test"], DELIVERED)
    clock.advance(100)
    report = queue.settle(taken["b.test"], {0: FAILED, 1: DEFERRED}).report
    assert delayed(queue, report) == ["b@b.test", "c@c.test", "d@d.test"]
    found = blocks(queue, report)
    assert found["a@b.test"]["Action"] == "failed"
    assert "Last-Attempt-Date" in found["b@b.test"]
    for name in ("c@c.test", "d@d.test"):
        assert "Last-Attempt-Date" not in found[name]
        assert found[name]["Diagnostic-Code"].startswith("x-gwrelay; 451 4.0.0 ")
    # Neither the one that was in hand then, nor the one that waited, is told of again.
    assert settle(queue, taken["d.test"], DEFERRED) is None
    clock.advance(300)
    for name in ("b.test", "c.test", "d.test"):
        assert settle(queue, take(queue).get(name) or taken[name], DEFERRED) is None
        taken |= {d.destination: d for d in queue.get_relaying()}


def test_who_remembers_what_other_parts_were_told_is_asked(queue: Queue, clock: SetClock) -> None:
    message_id = queue.add_message(envelope("b@b.test", "c@c.test"), CONTENT)
    queue.recall = lambda *which: {(message_id, 1): UNREACHED}.get(which)
    delivery = take(queue)["b.test"]
    clock.advance(100)
    found = blocks(queue, settle(queue, delivery, DEFERRED))
    assert found["b@b.test"]["Diagnostic-Code"] == "smtp; 450 4.2.1 greylisted"
    assert found["c@c.test"]["Diagnostic-Code"] == "x-gwrelay; 421 4.4.1 connection refused"


def test_nobody_is_warned_about_a_report(queue: Queue, clock: SetClock) -> None:
    queue.add_message(envelope("b@b.test", reverse_path=""), CONTENT)
    clock.advance(100)
    assert settle(queue, take(queue)["b.test"], DEFERRED) is None


def test_what_is_on_hold_is_warned_of_only_when_it_waits_again(
    queue: Queue, clock: SetClock
) -> None:
    message_id = queue.add_message(envelope("b@b.test", "c@c.test", "d@d.test"), CONTENT)
    taken = take(queue)
    settle(queue, taken["d.test"], DEFERRED)
    queue.orders.hold(message_id, "by a test", {2})
    clock.advance(100)
    assert settle(queue, taken["c.test"], HELD) is None
    assert delayed(queue, settle(queue, taken["b.test"], DEFERRED)) == ["b@b.test"]
    queue.release(message_id)
    taken = take(queue)
    report = settle(queue, taken["c.test"], DEFERRED)
    assert delayed(queue, report) == ["c@c.test", "d@d.test"]
    assert settle(queue, taken["d.test"], DEFERRED) is None


def test_what_is_in_doubt_is_said_to_be(queue: Queue, clock: SetClock) -> None:
    queue.add_message(envelope("b@b.test", "c@c.test"), CONTENT)
    taken = take(queue)
    settle(queue, taken["c.test"], IN_DOUBT)
    clock.advance(100)
    report = settle(queue, taken["b.test"], IN_DOUBT)
    assert report is not None
    text = " ".join(b"".join(queue.get_content(report.id)).decode().split())
    for name in ("b@b.test", "c@c.test"):
        assert f"<{name}>: may have been delivered, for mx.test did not answer" in text


def test_the_mark_stays_with_every_part_that_a_part_becomes(
    queue: Queue, store: WatchedStore, clock: SetClock
) -> None:
    message_id = queue.add_message(envelope("a@b.test", "b@b.test", "c@b.test"), CONTENT)
    delivery = take(queue)["b.test"]
    clock.advance(100)
    assert len(delayed(queue, settle(queue, delivery, DEFERRED))) == 3
    clock.advance(60)
    delivery = take(queue)["b.test"]
    queue.note_in_doubt(delivery, HOST)
    state = store.state(message_id)
    assert state is not None
    assert [part.warned for part in state.open] == [True], "noted before the final dot"
    queue.settle(delivery, {0: DEFERRED, 1: HELD, 2: IN_DOUBT})
    state = store.state(message_id)
    assert state is not None
    assert [part.warned for part in state.open] == [True] * 3
    queue.orders.hold(message_id, "by a test")
    queue.orders.release(message_id)
    again = [one for one in queue.get_waiting() if one.message_id == message_id]
    assert [settle(queue, one, DEFERRED) for one in again] == [None] * 3


# -- without an attempt ----------------------------------------------------------------------


def put_off(queue: Queue, delivery: Delivery, why: Outcome | None = UNREACHED) -> None:
    """As a manager does while a site is dead."""
    queue.warn_of_delay(delivery, why)
    queue.defer(delivery, 60)


def test_mail_that_is_put_off_is_warned_of_once_too(
    queue: Queue, store: WatchedStore, clock: SetClock
) -> None:
    told = heard(queue)
    message_id = queue.add_message(envelope("b@b.test", "c@c.test"), CONTENT)
    taken = take(queue)
    settle(queue, taken["c.test"], DEFERRED)
    put_off(queue, taken["b.test"])
    clock.advance(100)
    before = store.settled[:]
    put_off(queue, take(queue)["b.test"])
    assert store.settled == [*before, (True, True)]
    [(original, report, recipients)] = told
    assert (original, recipients) == (message_id, [0, 1])
    found = blocks(queue, report)
    assert found["b@b.test"]["Diagnostic-Code"] == "x-gwrelay; 421 4.4.1 connection refused"
    assert found["b@b.test"]["Action"] == "delayed"
    assert "Last-Attempt-Date" not in found["b@b.test"], "it was not tried"
    for _ in range(3):
        clock.advance(60)
        queue = opened(store, clock)
        told = heard(queue)
        delivery = take(queue)["b.test"]
        assert delivery.attempts == 0
        put_off(queue, delivery)
        assert told == []
    assert store.settled == [*before, (True, True)], "nothing more was written"
    clock.advance(60)
    for name in ("b.test", "c.test"):
        queue = opened(store, clock)
        assert settle(queue, take(queue)[name], DEFERRED) is None


def test_a_warning_of_what_was_put_off_rests_instead_of_being_synced(
    queue: Queue, store: WatchedStore, clock: SetClock
) -> None:
    """Thousands of them may be due at once, on the greenlet that routes all mail."""
    queue.add_message(envelope("b@b.test"), CONTENT)
    queue.add_message(envelope("c@c.test"), CONTENT)
    clock.advance(100)
    for delivery in queue.get_waiting():
        put_off(queue, delivery)
    clock.advance(4)
    assert queue.get_waiting() == []
    assert store.flushes == 0
    clock.advance(1)
    assert [d.destination for d in queue.get_waiting()] == ["a.test"] * 2
    assert store.flushes == 1, "one for both, before they are handed out"
    clock.advance(100)
    queue.get_waiting()
    assert store.flushes == 1


def test_what_comes_to_nothing_all_at_once_is_warned_of_turn_by_turn(
    queue: Queue, clock: SetClock
) -> None:
    """Nobody else's mail may wait for thousands of warnings."""
    told = heard(queue)
    for _ in range(40):
        queue.add_message(envelope("b@b.test"), CONTENT)

    def one_round() -> int:
        before = len(told)
        for delivery in [one for one in queue.get_waiting() if not one.is_bounce]:
            put_off(queue, delivery)
        return len(told) - before

    clock.advance(100)
    assert one_round() == 6
    for _ in range(3):
        clock.advance(60)
        assert one_round() == 6
    # A clock that was set back keeps none of them waiting for as long again.
    clock.advance(-50)
    queue.get_waiting()
    clock.advance(0.004)
    for message_id in [m for some in queue.ids() for m in some]:
        queue.orders.retry(message_id)
    assert one_round() == 6
    while len(told) < 40:
        clock.advance(60)
        assert one_round() > 0
    assert len({original for original, _, _ in told}) == 40


def test_no_order_lets_a_warning_go_before_it_is_synced(
    queue: Queue, store: WatchedStore, clock: SetClock
) -> None:
    told = heard(queue)
    queue.add_message(envelope("b@b.test"), CONTENT)
    clock.advance(100)
    put_off(queue, take(queue)["b.test"])
    queue.orders.retry(told[0][1].id)
    assert set(take(queue)) == {"a.test"}
    assert store.flushes == 1


def test_warnings_go_out_although_the_disk_fails(
    queue: Queue, store: WatchedStore, clock: SetClock, caplog: pytest.LogCaptureFixture
) -> None:
    queue.add_message(envelope("b@b.test"), CONTENT)
    clock.advance(100)
    put_off(queue, take(queue)["b.test"])
    store.fails["flush"] = StoreFailed("no disk")
    clock.advance(5)
    assert set(take(queue)) == {"a.test"}
    assert "no disk" in caplog.text


def test_a_site_that_is_dead_for_reasons_unknown_is_no_reason_not_to_warn(
    queue: Queue, clock: SetClock
) -> None:
    told = heard(queue)
    queue.add_message(envelope("b@b.test"), CONTENT)
    clock.advance(100)
    put_off(queue, take(queue)["b.test"], None)
    [(_, report, _)] = told
    assert blocks(queue, report)["b@b.test"]["Status"] == "4.0.0"


@pytest.mark.parametrize(
    "about",
    [
        envelope(Recipient("b@b.test", "NEVER")),
        envelope(Recipient("b@b.test", "SUCCESS,FAILURE")),
        envelope("b@b.test", reverse_path=""),
    ],
    ids=["never", "not of delays", "null reverse-path"],
)
def test_who_does_not_want_to_know_is_asked_once_and_not_told(
    store: WatchedStore, clock: SetClock, about: object
) -> None:
    queue = opened(store, clock, resident_bytes=0)
    told = heard(queue)
    queue.add_message(about, CONTENT)  # type: ignore[arg-type]
    clock.advance(100)
    for _ in range(3):
        put_off(queue, take(queue)["b.test"])
        clock.advance(60)
    assert told == []
    assert store.reads <= 1, "what is put off over and over must cost next to nothing"
    assert settle(queue, take(queue)["b.test"], DEFERRED) is None


def test_only_what_is_in_hand_can_be_warned_of(queue: Queue, clock: SetClock) -> None:
    queue.add_message(envelope("b@b.test"), CONTENT)
    delivery = take(queue)["b.test"]
    queue.set_waiting(delivery)
    clock.advance(100)
    with pytest.raises(AccountingError):
        queue.warn_of_delay(delivery, UNREACHED)


# -- what breaks -----------------------------------------------------------------------------


def test_a_message_that_cannot_be_read_costs_its_warning_and_nothing_else(
    store: WatchedStore, clock: SetClock
) -> None:
    queue = opened(store, clock, resident_bytes=0)
    told = heard(queue)
    queue.add_message(envelope("b@b.test", "c@c.test"), CONTENT)
    taken = take(queue)
    clock.advance(100)
    store.fails["message"] = StoreFailed("no disk")
    put_off(queue, taken["b.test"])
    settled = queue.settle(taken["c.test"], {1: DEFERRED})
    assert (told, settled.report, settled.warned) == ([], None, ())
    del store.fails["message"]
    clock.advance(300)
    for delivery in take(queue).values():
        assert settle(queue, delivery, DELIVERED) is None
    assert len(queue) == 0


@pytest.mark.parametrize("error", [StoreFull("no room"), StoreFailed("no disk")])
def test_a_warning_that_cannot_be_written_is_put_off(
    queue: Queue,
    store: WatchedStore,
    clock: SetClock,
    error: Exception,
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = heard(queue)
    message_id = queue.add_message(envelope("b@b.test"), CONTENT)
    clock.advance(100)
    store.fails["settle"] = error
    put_off(queue, take(queue)["b.test"])
    assert told == []
    assert f"message {message_name(message_id)}" in caplog.text
    del store.fails["settle"]
    clock.advance(60)
    [delivery] = queue.get_waiting()
    put_off(queue, delivery)
    assert [recipients for _, _, recipients in told] == [[0]]


@pytest.mark.parametrize("then", ["is held", "ends"])
def test_a_power_cut_that_takes_a_warning_and_leaves_what_came_behind_costs_no_warning(
    tmp_path: Path, clock: SetClock, then: str
) -> None:
    queue = opened(SpoolStore(open_spool(tmp_path / "spool")), clock)
    told = heard(queue)
    message_id = queue.add_message(envelope("b@b.test", "c@c.test"), CONTENT)
    clock.advance(100)
    taken = take(queue)
    put_off(queue, taken["b.test"])
    if then == "is held":
        queue.orders.hold(message_id, "by a test")
    else:
        settle(queue, taken["c.test"], DELIVERED)
    queue.flush()
    [(_, report, recipients)] = told
    assert recipients == [0, 1]

    # Both frames were written, and none was synced: the disk has the later one alone.
    shutil.copytree(tmp_path / "spool", tmp_path / "after")
    queue.close()
    [segment] = (tmp_path / "after").glob("*.segment")
    content, warning = segment.read_bytes(), b"Action: delayed"
    assert content.count(warning) == 4, "of each recipient, in the first frame and again"
    segment.write_bytes(content.replace(warning, bytes(len(warning)), 2))
    after = opened(SpoolStore(open_spool(tmp_path / "after")), clock)
    assert all(part.open.warned for part in after.parts(message_id))
    assert delayed(after, report) == ["b@b.test", "c@c.test"]
    assert after.parts(report.id)[0].word == "waiting"
    after.close()
