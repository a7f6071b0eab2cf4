"""The event log: one JSON object a line, for machines."""

import errno
import fcntl
import json
import os

import pytest

from gwrelay import events
from gwrelay.events import EventLog
from gwrelay.message import outcome
from gwrelay.message.envelope import Envelope, Message, Recipient, message_name
from gwrelay.message.outcome import Kind
from gwrelay.message.reply import Reply
from gwrelay.queue.mailqueue import Queue
from gwrelay.queue.memorystore import MemoryStore
from gwrelay.queue.retry import RetryPolicy

ENVELOPE = Envelope(
    "author@a.example",
    (Recipient("one@b.example"), Recipient("two@b.example"), Recipient("three@b.example")),
)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def settled(told, *, lifetime_s=432000.0, delay_warning_s=0.0, now=1000.5):
    """The events of a first attempt that ended so, for a message accepted at 1000.0."""
    clock = iter([1000.0, 1000.0])
    queue = Queue(
        MemoryStore(),
        retry=RetryPolicy(
            delays_s=(60,), lifetime_s=lifetime_s, jitter=0, delay_warning_s=delay_warning_s
        ),
        clock=lambda: next(clock, now),
    )
    queue.add_message(ENVELOPE, b"Subject: x\r\n\r\nhello\r\n")
    (delivery,) = queue.get_waiting()
    return list(events.ended(delivery, 1, told, queue.settle(delivery, told), now))


def told(code, status="", text="said"):
    return outcome.of_reply(outcome.DOT, Reply(code, status, text), "mx.b.example", "192.0.2.1")


def test_an_event_is_one_line_of_json(tmp_path):
    log = EventLog(str(tmp_path / "events"))
    log.write({"event": "accepted", "text": "two\nlines \x1b[31m"})
    log.close()
    assert lines(tmp_path / "events") == [{"event": "accepted", "text": "two\nlines \x1b[31m"}]


def test_events_are_appended_to_what_is_there(tmp_path):
    for number in (1, 2):
        log = EventLog(str(tmp_path / "events"))
        log.write({"n": number})
        log.close()
    assert [event["n"] for event in lines(tmp_path / "events")] == [1, 2]


def test_after_a_rename_and_reopen_events_go_to_a_new_file(tmp_path):
    log = EventLog(str(tmp_path / "events"))
    log.write({"n": 1})
    (tmp_path / "events").rename(tmp_path / "events.1")
    log.reopen()
    log.write({"n": 2})
    log.close()
    assert [event["n"] for event in lines(tmp_path / "events.1")] == [1]
    assert [event["n"] for event in lines(tmp_path / "events")] == [2]


def test_events_wait_for_a_file_that_cannot_be_written(tmp_path):
    log = EventLog(str(tmp_path / "missing" / "events"))
    log.write({"n": 1})
    log.flush()
    (tmp_path / "missing").mkdir()
    log.close()
    assert [event["n"] for event in lines(tmp_path / "missing" / "events")] == [1]


def test_what_one_worker_has_begun_to_write_is_ended_before_another_writes(tmp_path, monkeypatch):
    path = tmp_path / "events"
    one, other = EventLog(str(path)), EventLog(str(path))
    one.write({"n": 1})
    one.write({"n": 2})
    other.write({"n": 3})
    write, room = os.write, [12]  # bytes: the first line and a part of the second

    def short(descriptor, octets):
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = write(descriptor, octets[: room[0]])
        room[0] -= count
        return count

    with monkeypatch.context() as full:
        full.setattr(events.os, "write", short)
        one.flush()
        room[0] = 1000
        other.flush()
        assert path.read_bytes() == b'{"n":1}\n{"n"'
    one.flush()
    other.close()
    assert [event["n"] for event in lines(path)] == [1, 2, 3]


def test_the_last_events_wait_for_the_turn_of_another_worker(tmp_path, monkeypatch):
    path = tmp_path / "events"
    log = EventLog(str(path))
    log.write({"n": 1})
    with path.open("a") as elsewhere:
        fcntl.flock(elsewhere, fcntl.LOCK_EX)
        log.flush()
        assert path.read_text() == ""
        monkeypatch.setattr(events.time, "sleep", lambda _: fcntl.flock(elsewhere, fcntl.LOCK_UN))
        log.close()
    assert [event["n"] for event in lines(path)] == [1]


def test_without_a_file_there_is_nothing_to_write_to():
    assert not EventLog("")


def test_each_recipient_has_its_event():
    found = settled({0: told(250, "2.0.0"), 1: told(451, "4.7.1"), 2: told(550, "5.1.1")})
    words = {event["recipient"]: event["event"] for event in found if "recipient" in event}
    assert words == {
        "one@b.example": "delivered",
        "two@b.example": "deferred",
        "three@b.example": "bounced",
    }


def test_an_event_says_who_said_what_and_when():
    event = settled({n: told(250, "2.0.0", "Ok: 42") for n in range(3)})[0]
    assert event == {
        "time": 1000.5,
        "event": "delivered",
        "id": message_name(1),
        "reverse_path": "author@a.example",
        "recipient": "one@b.example",
        "size": 21,
        "destination": "b.example",
        "exchange": "mx.b.example",
        "address": "192.0.2.1",
        "tls": "",
        "stage": "dot",
        "reply": "250 2.0.0 Ok: 42",
        "attempt": 1,
        "delay": 0.5,
    }


def test_a_deferred_event_says_when_it_is_due_again():
    event = settled({n: told(451) for n in range(3)})[0]
    assert event["due_at"] == pytest.approx(1060.5)


def test_an_outcome_in_doubt_is_marked_so():
    verdict = told(421)._replace(kind=Kind.DEFERRED, in_doubt=True)
    assert settled(dict.fromkeys(range(3), verdict))[0]["in_doubt"] is True


def test_what_is_held_is_said_to_be_and_why():
    found = settled({0: told(250), 1: told(451)._replace(hold="checksum"), 2: told(451)})
    words = {event["recipient"]: event for event in found}
    assert [words[f"{n}@b.example"]["event"] for n in ("one", "two", "three")] == [
        "delivered",
        "held",
        "deferred",
    ]
    assert words["two@b.example"]["reason"] == "checksum"
    assert "due_at" not in words["two@b.example"], "it waits for nothing but a release"
    assert words["three@b.example"]["due_at"] == pytest.approx(1060.5)


def test_what_outlived_its_lifetime_is_expired_and_its_report_accepted():
    *about, report = settled(dict.fromkeys(range(3), told(451)), lifetime_s=0.0)
    assert [event["event"] for event in about] == ["expired"] * 3
    assert report["event"] == "accepted"
    assert report["dsn_of"] == message_name(1)
    assert report["recipients"] == ["author@a.example"]
    assert "delayed" not in report


def test_a_warning_says_of_whom_it_tells_that_they_are_delayed():
    found = settled({0: told(250), 1: told(451), 2: told(451)}, delay_warning_s=0.5)
    *about, report = found
    assert [event["event"] for event in about] == ["delivered", "deferred", "deferred"]
    assert report["event"] == "accepted"
    assert report["dsn_of"] == message_name(1)
    assert report["delayed"] == ["two@b.example", "three@b.example"]


def test_a_stuck_event_says_what_has_not_moved_and_since_when():
    event = events.stuck("the lookup of b.test, for 1 or more", 120.0, 1000.0)
    assert event == {
        "time": 1000.0,
        "event": "stuck",
        "what": "the lookup of b.test, for 1 or more",
        "since": 880.0,
    }


def test_an_accepted_event_names_the_client():
    event = events.accepted(Message(7, 1000.0, 123, ENVELOPE), "192.0.2.9")
    assert event["client"] == "192.0.2.9"
    assert event["recipients"] == ["one@b.example", "two@b.example", "three@b.example"]
    assert "dsn_of" not in event
