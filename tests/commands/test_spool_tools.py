"""`gwrelay spool ...` as people meet it: exit status, JSON, lines, and a spool left as it was."""

import json
import os
import subprocess
import sys

import pytest

from gwrelay import spooldirectory
from gwrelay.cli import run
from gwrelay.message.envelope import Envelope, Message, Recipient, message_id, message_name
from gwrelay.queue.mailqueue import Queue
from gwrelay.queue.spoolstore import SpoolStore
from gwrelay.queue.store import Doubt, Host, NewMessage, encode_state, first_state
from spool import Drop, Put, Spool
from spool.segment import FIRST, Header, header_block, name_of
from support.spools import forget_checkpoint

ENVELOPE = Envelope("me@example.com", (Recipient("you@a.example"), Recipient("they@b.example")))
#: Every byte there is, and no line end at the end.
AWKWARD = b"Subject: bytes\r\n\r\n" + bytes(range(256)) + b"\r\n.\r\n..\r\nlast line"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in os.environ:
        if name.startswith("GWRELAY_"):
            monkeypatch.delenv(name)


def filled(directory, count=3, now=1_700_000_000.0):
    """A worker's spool with `count` messages, one second apart.  → their names."""
    names = []
    times = iter(now + n for n in range(100 * count))
    log = Spool(directory, clock=lambda: now)
    queue = Queue(SpoolStore(log), hostname="gw.example.com", clock=lambda: next(times))
    for n in range(count):
        names.append(message_name(queue.add_message(ENVELOPE, AWKWARD + b"%d" % n)))
    queue.close()
    return names


@pytest.fixture
def top(tmp_path):
    """What `serve --spool` was given, with the spool of one worker."""
    (tmp_path / "spool").mkdir()
    return tmp_path / "spool"


def segment_of(top, worker="worker-0", number=1):
    return top / worker / name_of(number)


def frames(raw):
    """(offset, length) of each frame."""
    found, at = [], FIRST
    while at < len(raw):
        length = 20 + int.from_bytes(raw[at + 12 : at + 16], "little")
        found.append((at, length))
        at += length
    return found


def flip(file, offset):
    raw = bytearray(file.read_bytes())
    raw[offset] ^= 1
    file.write_bytes(raw)


def picture(top):
    """Of everything there: mode, size, and both times of change."""
    found = {}
    for file in [top, *top.rglob("*")]:
        about = file.stat()
        found[str(file)] = (about.st_mode, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
    return found


def asked(capsys, *arguments):
    """→ exit status and the JSON printed."""
    status = run(["spool", *map(str, arguments), "--json"])
    captured = capsys.readouterr()
    assert not captured.err
    return status, json.loads(captured.out)


# stat.


def test_stat_counts_messages_segments_and_bytes(top, capsys):
    filled(top / "worker-0")
    size = segment_of(top).stat().st_size
    status, printed = asked(capsys, "stat", "--spool", top)
    (worker,) = printed["workers"]
    (segment,) = worker["segments"]
    assert (status, printed["spool"], worker["worker"]) == (0, str(top), "worker-0")
    assert (worker["in_use_by"], worker["messages"], worker["findings"]) == (None, 3, 0)
    assert worker["oldest_at"] < worker["newest_at"]
    assert worker["disk_bytes"] >= size
    assert (segment["number"], segment["size_bytes"], segment["used_bytes"]) == (1, size, size)
    assert segment["frames"] == 3
    assert segment["living_bytes"] == worker["living_bytes"] > 3 * len(AWKWARD)
    assert 0 <= segment["dead_share"] < 0.1


def test_stat_speaks_to_people_too(top, capsys):
    filled(top / "worker-0")
    assert run(["spool", "stat", "--spool", str(top)]) == 0
    first, second, heading, row = capsys.readouterr().out.splitlines()
    assert first.startswith("worker-0: 3 messages, ")
    assert second.startswith("worker-0: oldest 2023-11-14T22:13:2")
    assert heading.split() == ["segment", "bytes", "used", "frames", "living", "dead"]
    assert row.split()[0] == "1"


def test_every_worker_is_looked_at_in_the_order_of_their_numbers(top, capsys):
    for worker in ("worker-10", "worker-2", "worker-0"):
        filled(top / worker, 1)
    _, printed = asked(capsys, "stat", "--spool", top)
    assert [w["worker"] for w in printed["workers"]] == ["worker-0", "worker-2", "worker-10"]


def test_the_directory_may_come_from_the_environment(top, capsys, monkeypatch):
    filled(top / "worker-0", 1)
    monkeypatch.setenv("GWRELAY_SPOOL", str(top))
    assert run(["spool", "stat"]) == 0
    assert "1 messages" in capsys.readouterr().out


# verify.


def test_verify_of_a_whole_spool_is_status_0(top, capsys):
    filled(top / "worker-0")
    assert asked(capsys, "verify", "--spool", top) == (
        0,
        {
            "spool": str(top),
            "whole": True,
            "workers": [
                {
                    "worker": "worker-0",
                    "in_use_by": None,
                    "whole": True,
                    "segments": 1,
                    "frames": 3,
                    "messages": 3,
                    "lost_frames": 0,
                    "damaged_bytes": 0,
                    "findings": [],
                    "incomplete_messages": [],
                    "held_messages": [],
                    "quarantine": [],
                }
            ],
        },
    )
    assert run(["spool", "verify", "--spool", str(top)]) == 0
    assert capsys.readouterr().out == "worker-0: whole: 1 segments, 3 frames, 3 messages\n"


def test_verify_names_the_place_and_the_message_of_a_flipped_byte(top, capsys):
    names = filled(top / "worker-0")
    offset, length = frames(segment_of(top).read_bytes())[1]
    flip(segment_of(top), offset + length - 1)
    forget_checkpoint(top / "worker-0")
    before = picture(top)
    status, printed = asked(capsys, "verify", "--spool", top)
    (worker,) = printed["workers"]
    assert (status, printed["whole"]) == (1, False)
    assert (worker["lost_frames"], worker["damaged_bytes"], worker["messages"]) == (1, length, 2)
    assert worker["findings"] == [
        {
            "what": "lost frames",
            "segment": 1,
            "offset": offset,
            "bytes": length,
            "lost_frames": 1,
            "records": [{"record": "PUT", "id": names[1]}],
        }
    ]
    assert run(["spool", "verify", "--spool", str(top)]) == 1
    assert capsys.readouterr().out == (
        f"worker-0: segment 1 at {offset}: lost frames, {length} bytes, at least 1 frames: "
        f"PUT {names[1]}\n"
        "worker-0: DAMAGED: 1 segments, 2 frames, 2 messages\n"
    )
    assert picture(top) == before


def test_verify_of_a_truncated_segment_is_status_1(top, capsys):
    names = filled(top / "worker-0")
    file = segment_of(top)
    offset, length = frames(file.read_bytes())[2]
    os.truncate(file, offset + length - 7)
    status, printed = asked(capsys, "verify", "--spool", top)
    (finding,) = printed["workers"][0]["findings"]
    assert status == 1
    assert (finding["what"], finding["offset"], finding["bytes"]) == (
        "torn tail",
        offset,
        length - 7,
    )
    assert finding["records"] == [{"record": "PUT", "id": names[2]}]


def filled_in_pieces(directory):
    """A message of three pieces and an end, each in a segment of its own.  → its name."""
    store = SpoolStore(Spool(directory, segment_bytes=2048))
    key = store.next_id()
    for n in range(3):
        store.add_piece(key, n, b"%d" % n * 1500)
        store.flush()
    message = Message(key, 1_700_000_000.0, 4504, ENVELOPE)
    store.accept(NewMessage(message, first_state(message), b"last", 3))
    store.close()
    return message_name(key)


def test_verify_names_a_message_whose_pieces_vanished_with_a_segment(top, capsys):
    name = filled_in_pieces(top / "worker-0")
    content = ["spool", "dump", "--spool", str(top), "--content", name]
    assert run(content) == 0
    assert capsys.readouterr().out == "0" * 1500 + "1" * 1500 + "2" * 1500 + "last"
    segment_of(top, number=2).unlink()
    status, printed = asked(capsys, "verify", "--spool", top)
    assert status == 1
    assert printed["workers"][0]["incomplete_messages"] == [{"id": name, "missing_pieces": [1]}]
    assert run(["spool", "verify", "--spool", str(top)]) == 1
    assert f"message {name} misses parts of its content: 1\n" in (capsys.readouterr().out)
    # Nothing of what is damaged is given out, but it is listed.
    assert run(content) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"gwrelay: error: message {name} is damaged: ")
    status, printed = asked(capsys, "dump", "--spool", top)
    assert (status, printed["id"]) == (1, name)
    assert printed["damaged"] == "misses parts of its content: 1"
    assert printed["envelope"]["reverse_path"] == "me@example.com"


def test_one_damaged_worker_of_two_is_status_1(top, capsys):
    for worker in ("worker-0", "worker-1"):
        filled(top / worker)
    flip(segment_of(top, "worker-1"), FIRST + 30)
    status, printed = asked(capsys, "verify", "--spool", top)
    assert status == 1
    assert [worker["whole"] for worker in printed["workers"]] == [True, False]


def test_verify_lists_what_a_start_kept_aside(top, capsys):
    filled(top / "worker-0")
    offset, length = frames(segment_of(top).read_bytes())[1]
    flip(segment_of(top), offset + length - 1)
    forget_checkpoint(top / "worker-0")
    Spool(top / "worker-0").close()
    (file,) = (top / "worker-0" / "quarantine").iterdir()
    status, printed = asked(capsys, "verify", "--spool", top)
    assert status == 1
    assert printed["workers"][0]["quarantine"] == [{"name": file.name, "bytes": length}]
    run(["spool", "verify", "--spool", str(top)])
    line = f"worker-0: kept aside: quarantine/{file.name}, {length} bytes\n"
    assert line in capsys.readouterr().out


def test_what_was_kept_aside_is_no_damage_once_the_log_is_whole_again(top, capsys):
    filled(top / "worker-0")
    tag = segment_of(top).read_bytes()[FIRST : FIRST + 8]
    with segment_of(top).open("ab") as tail:
        tail.write(tag + b"torn")
    assert asked(capsys, "verify", "--spool", top)[0] == 1
    Spool(top / "worker-0").close()
    status, printed = asked(capsys, "verify", "--spool", top)
    assert (status, len(printed["workers"][0]["quarantine"])) == (0, 1)


# dump.


def test_dump_prints_envelope_and_state_of_each_message(top, capsys):
    names = filled(top / "worker-0")
    assert run(["spool", "dump", "--spool", str(top)]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [message["id"] for message in printed] == names
    first = printed[0]
    arrived_at = first["arrived_at"]
    assert 1_700_000_000 <= arrived_at < 1_700_000_100
    plain = {"notify": "", "orcpt": ""}
    waits = {"attempts": 0, "due_at": arrived_at, "held": "", "doubt": None, "warned": False}
    assert first == {
        "id": names[0],
        "worker": "worker-0",
        "damaged": None,
        "arrived_at": arrived_at,
        "size_bytes": len(AWKWARD) + 1,
        "envelope": {
            "reverse_path": "me@example.com",
            "recipients": [
                {"address": "you@a.example", **plain},
                {"address": "they@b.example", **plain},
            ],
            "body": "7BIT",
            "smtputf8": False,
            "ret": "",
            "envid": "",
        },
        "is_bounce": False,
        "open": [
            {"destination": "a.example", "recipients": [0], **waits},
            {"destination": "b.example", "recipients": [1], **waits},
        ],
    }


def test_dump_prints_those_that_are_named_and_misses_the_rest(top, capsys):
    names = filled(top / "worker-0")
    absent = message_name(5)
    assert run(["spool", "dump", "--spool", str(top), names[2].upper(), absent, names[0]]) == 1
    captured = capsys.readouterr()
    assert [json.loads(line)["id"] for line in captured.out.splitlines()] == [names[0], names[2]]
    assert captured.err == f"gwrelay: error: message {absent} is not in the spool\n"


def test_content_comes_out_byte_for_byte(top, capsysbinary):
    names = filled(top / "worker-0")
    filled(top / "worker-1", 1, now=1_600_000_000.0)
    assert run(["spool", "dump", "--spool", str(top), "--content", names[1]]) == 0
    captured = capsysbinary.readouterr()
    assert (captured.out, captured.err) == (AWKWARD + b"1", b"")


def test_content_of_a_message_that_is_not_there_is_status_1(top, capsys):
    filled(top / "worker-0")
    assert run(["spool", "dump", "--spool", str(top), "--content", message_name(5)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"gwrelay: error: message {message_name(5)} is not in the spool\n"


def test_content_that_misses_pieces_is_refused_without_an_offset(top, capsys):
    name = filled_in_pieces(top / "worker-0")
    segment_of(top, number=2).unlink()
    assert run(["spool", "dump", "--spool", str(top), "--content", name]) == 1
    assert capsys.readouterr().err.endswith(" misses pieces [1]\n")


def test_dump_is_oldest_first_over_all_workers(top, capsys):
    late = filled(top / "worker-0", 2, now=1_700_000_000.0)
    early = filled(top / "worker-1", 1, now=1_600_000_000.0)
    latest = filled(top / "worker-2", 1, now=1_800_000_000.0)
    assert run(["spool", "dump", "--spool", str(top)]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [message["id"] for message in found] == early + late + latest
    assert [message["worker"][-1] for message in found] == ["1", "0", "0", "2"]


# What is on hold.


def hold(directory, name, reason, doubt=None):
    """Put the first part of a message on hold."""
    store = SpoolStore(Spool(directory))
    state = store.state(message_id(name))
    first = state.open[0]._replace(held=reason, doubt=doubt)
    store.settle(message_id(name), state._replace(open=(first, *state.open[1:])), None)
    store.close()


def test_verify_and_dump_tell_what_is_held_and_why(top, capsys):
    names = filled(top / "worker-0")
    host = Host("mx.a.example", "192.0.2.1", 25)
    hold(top / "worker-0", names[1], "in doubt: it may be there", Doubt(host, 5.5))
    status, printed = asked(capsys, "verify", "--spool", top)
    reasons = ["in doubt: it may be there"]
    assert status == 0, "held is not damaged"
    assert printed["workers"][0]["held_messages"] == [{"id": names[1], "reasons": reasons}]
    assert run(["spool", "verify", "--spool", str(top)]) == 0
    assert (
        f"worker-0: message {names[1]} is held: in doubt: it may be there\n"
        in capsys.readouterr().out
    )
    assert run(["spool", "dump", "--spool", str(top), names[1]]) == 0
    held, other = json.loads(capsys.readouterr().out)["open"]
    assert held["held"] == "in doubt: it may be there"
    assert held["doubt"] == {
        "exchange": "mx.a.example",
        "address": "192.0.2.1",
        "port": 25,
        "since": 5.5,
    }
    assert (other["held"], other["doubt"]) == ("", None)


def test_repair_leaves_what_is_held_and_whole(top, capsys):
    names = filled(top / "worker-0")
    hold(top / "worker-0", names[1], "in doubt: it may be there")
    status, printed = asked(capsys, "repair", "--spool", top)
    assert (status, printed["workers"][0]["messages"]) == (0, [])


def test_repair_drops_what_is_held_for_an_envelope_that_makes_no_sense(top, capsys):
    log = Spool(top / "worker-0")
    store = SpoolStore(log)
    key = store.next_id()
    message = Message(key, 1_700_000_000.0, 4, ENVELOPE)
    log.write([Put(key, encode_state(first_state(message)), b"no envelope", b"body")])
    store.close()
    name = message_name(key)
    status, printed = asked(capsys, "repair", "--spool", top)
    assert (status, printed["workers"][0]["messages"]) == (0, []), "nobody has looked yet"
    hold(top / "worker-0", name, "the envelope makes no sense")
    status, printed = asked(capsys, "repair", "--spool", top)
    assert [message["id"] for message in printed["workers"][0]["messages"]] == [name]
    assert (top / "worker-0" / "quarantine" / f"repair-{name}.content").read_bytes() == b"body"
    assert asked(capsys, "stat", "--spool", top)[1]["workers"][0]["messages"] == 0


# A message of which the log has lost the record, and the checkpoint has the key.


def with_lost_record(directory):
    """Three messages, the second's PUT damaged.  → its name, and the others'."""
    first, name, last = filled(directory)
    offset, length = frames((directory / name_of(1)).read_bytes())[1]
    flip(directory / name_of(1), offset + length - 1)
    return name, [first, last]


LOST_RECORD = "its record is damaged or lost"


def test_verify_and_dump_list_a_message_whose_record_is_lost(top, capsys):
    name, (first, last) = with_lost_record(top / "worker-0")
    status, printed = asked(capsys, "verify", "--spool", top)
    (worker,) = printed["workers"]
    assert (status, worker["messages"]) == (1, 3)
    assert worker["held_messages"] == [{"id": name, "reasons": [LOST_RECORD]}]
    assert worker["incomplete_messages"] == []
    assert run(["spool", "verify", "--spool", str(top)]) == 1
    assert f"worker-0: message {name} is held: {LOST_RECORD}\n" in capsys.readouterr().out
    assert run(["spool", "dump", "--spool", str(top)]) == 1
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [message["id"] for message in found] == [first, name, last]
    assert run(["spool", "dump", "--spool", str(top), name]) == 1
    described = json.loads(capsys.readouterr().out)
    assert described == found[1]
    assert (described["damaged"], "envelope" in described) == (LOST_RECORD, False)
    assert [part["destination"] for part in described["open"]] == ["a.example", "b.example"]
    assert run(["spool", "dump", "--spool", str(top), "--content", name]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"gwrelay: error: message {name} is damaged: the record ")


def test_verify_finds_a_message_that_vanished_with_its_whole_segment(top, capsys):
    name = filled_in_pieces(top / "worker-0")
    segment_of(top, number=4).unlink()
    status, printed = asked(capsys, "verify", "--spool", top)
    (worker,) = printed["workers"]
    assert (status, worker["findings"], worker["whole"]) == (1, [], False)
    assert worker["held_messages"] == [{"id": name, "reasons": [LOST_RECORD]}]


def test_repair_drops_a_message_whose_record_is_lost(top, capsys):
    name, others = with_lost_record(top / "worker-0")
    _, printed = asked(capsys, "repair", "--dry-run", "--spool", top)
    assert [message["id"] for message in printed["workers"][0]["messages"]] == [name]
    assert run(["spool", "repair", "--spool", str(top)]) == 0
    assert capsys.readouterr().out == (
        f"worker-0: message {name} dropped: {LOST_RECORD}; "
        f"see quarantine/repair-{name}.json and .content\n"
    )
    report = json.loads((top / "worker-0" / "quarantine" / f"repair-{name}.json").read_bytes())
    assert report == printed["workers"][0]["messages"][0]
    store = SpoolStore(Spool(top / "worker-0"))
    assert [message_name(key) for batch in store.load() for key, _ in batch] == others
    store.close()
    run(["spool", "repair", "--spool", str(top)])
    assert capsys.readouterr().out == "worker-0: nothing to repair\n"


def test_repair_drops_a_message_whose_segment_vanished_long_ago(top, capsys, caplog):
    name = filled_in_pieces(top / "worker-0")
    segment_of(top, number=4).unlink()
    others = [name for n in range(2) for name in filled(top / "worker-0", 1, 1.8e9 + n)]
    _, printed = asked(capsys, "repair", "--spool", top)
    assert [message["id"] for message in printed["workers"][0]["messages"]] == [name]
    caplog.clear()
    store = SpoolStore(Spool(top / "worker-0"))
    assert [message_name(key) for batch in store.load() for key, _ in batch] == others
    store.close()
    assert not caplog.records


def test_repair_keeps_the_pieces_of_a_message_whose_record_is_lost(top, capsys):
    name = filled_in_pieces(top / "worker-0")
    segment_of(top, number=4).unlink()
    assert asked(capsys, "repair", "--spool", top)[0] == 0
    kept = top / "worker-0" / "quarantine" / f"repair-{name}.content"
    assert kept.read_bytes() == b"0" * 1500 + b"1" * 1500 + b"2" * 1500


# repair.


def test_repair_drops_what_is_not_whole_and_keeps_what_is_left_of_it(top, capsys):
    name = filled_in_pieces(top / "worker-0")
    others = filled(top / "worker-0", now=1_800_000_000.0)
    segment_of(top, number=2).unlink()
    status, printed = asked(capsys, "repair", "--spool", top)
    (worker,) = printed["workers"]
    assert (status, [message["id"] for message in worker["messages"]]) == (0, [name])
    kept = top / "worker-0" / "quarantine"
    assert sorted(path.name for path in kept.iterdir()) == [
        f"repair-{name}.content",
        f"repair-{name}.json",
    ]
    content = b"0" * 1500 + b"2" * 1500 + b"last"
    assert (kept / f"repair-{name}.content").read_bytes() == content
    assert {path.stat().st_mode & 0o777 for path in kept.iterdir()} == {0o600}
    report = json.loads((kept / f"repair-{name}.json").read_bytes())
    assert report == worker["messages"][0]
    assert report["envelope"]["reverse_path"] == "me@example.com"
    run(["spool", "dump", "--spool", str(top)])
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["id"] for line in lines] == others
    # And once more: there is nothing left to do.
    assert run(["spool", "repair", "--spool", str(top)]) == 0
    assert capsys.readouterr().out == "worker-0: nothing to repair\n"


def test_a_dry_run_says_what_it_would_do_and_changes_nothing(top, capsys):
    name = filled_in_pieces(top / "worker-0")
    segment_of(top, number=2).unlink()
    before = picture(top)
    assert run(["spool", "repair", "--dry-run", "--spool", str(top)]) == 0
    assert capsys.readouterr().out == (
        f"worker-0: message {name} would be dropped: misses parts of its content: 1\n"
    )
    status, printed = asked(capsys, "repair", "--dry-run", "--spool", top)
    assert (status, printed["dry_run"]) == (0, True)
    assert picture(top) == before


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_repair_is_refused_with_status_3_while_a_worker_is_in_use(top, more, capsys):
    filled_in_pieces(top / "worker-0")
    segment_of(top, number=2).unlink()
    held = Spool(top / "worker-1")
    before = picture(top)
    assert run(["spool", "repair", "--spool", str(top), *more]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"gwrelay: error: {top}/worker-1 is in use by process {os.getpid()}; stop it first\n"
    )
    assert picture(top) == before
    held.close()


def test_repair_drops_nothing_it_cannot_report(top, capsys):
    name = filled_in_pieces(top / "worker-0")
    segment_of(top, number=2).unlink()
    (top / "worker-0" / "quarantine").write_text("in the way")
    assert run(["spool", "repair", "--spool", str(top)]) == 1
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1].startswith(
        f"gwrelay: error: message {name} is kept: no report of it: "
    )
    assert asked(capsys, "dump", "--spool", top)[1]["id"] == name


@pytest.mark.parametrize("as_json", [False, True])
def test_what_was_repaired_is_told_though_a_later_worker_fails(top, as_json, capsys):
    names = [filled_in_pieces(top / f"worker-{n}") for n in range(2)]
    for n in range(2):
        segment_of(top, f"worker-{n}", number=2).unlink()
    (top / "worker-1" / "quarantine").write_text("in the way")
    assert run(["spool", "repair", "--spool", str(top), *["--json"] * as_json]) == 1
    captured = capsys.readouterr()
    assert f"gwrelay: error: message {names[1]} is kept: " in captured.err
    if as_json:
        printed = json.loads(captured.out)
        assert printed["spool"] == str(top)
        assert [worker["worker"] for worker in printed["workers"]] == ["worker-0"]
    else:
        (line,) = captured.out.splitlines()
        assert line.startswith(f"worker-0: message {names[0]} dropped: ")


@pytest.mark.parametrize("as_json", [False, True])
def test_what_was_repaired_is_told_though_a_later_message_fails(top, as_json, capsys):
    """Given two messages to repair, and something in the way of the second's report."""
    names = [filled_in_pieces(top / "worker-0"), filled_in_pieces(top / "worker-0")]
    for file in (top / "worker-0").glob("*.segment"):
        raw = file.read_bytes()
        file.write_bytes(raw.replace(b"1" * 1500, b"?" * 1500))
    forget_checkpoint(top / "worker-0")
    (top / "worker-0" / "quarantine").mkdir(mode=0o700)
    (top / "worker-0" / "quarantine" / f"repair-{names[1]}.content").mkdir()
    assert run(["spool", "repair", "--spool", str(top), *["--json"] * as_json]) == 1
    captured = capsys.readouterr()
    assert f"gwrelay: error: message {names[1]} is kept: " in captured.err
    if as_json:
        (worker,) = json.loads(captured.out)["workers"]
        assert [message["id"] for message in worker["messages"]] == names[:1]
    else:
        (line,) = captured.out.splitlines()
        assert line.startswith(f"worker-0: message {names[0]} dropped: ")
    assert asked(capsys, "dump", "--spool", top)[1]["id"] == names[1]


def test_a_repair_that_fails_at_once_tells_of_nothing_done(top, capsys):
    name = filled_in_pieces(top / "worker-0")
    segment_of(top, number=2).unlink()
    (top / "worker-0" / "quarantine").write_text("in the way")
    assert run(["spool", "repair", "--spool", str(top)]) == 1
    captured = capsys.readouterr()
    assert (captured.out, name in captured.err) == ("", True)


def test_repair_writes_nothing_through_a_link(top, tmp_path, capsys):
    name = filled_in_pieces(top / "worker-0")
    segment_of(top, number=2).unlink()
    (tmp_path / "elsewhere").mkdir()
    (top / "worker-0" / "quarantine").symlink_to(tmp_path / "elsewhere")
    assert run(["spool", "repair", "--spool", str(top)]) == 1
    assert f"message {name} is kept: no report of it: " in capsys.readouterr().err
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert asked(capsys, "dump", "--spool", top)[1]["id"] == name


def test_a_start_keeps_nothing_aside_through_a_link(top, tmp_path, caplog):
    names = filled(top / "worker-0")
    offset, length = frames(segment_of(top).read_bytes())[1]
    flip(segment_of(top), offset + length - 1)
    forget_checkpoint(top / "worker-0")
    (tmp_path / "elsewhere").mkdir()
    (top / "worker-0" / "quarantine").symlink_to(tmp_path / "elsewhere")
    log = Spool(top / "worker-0")
    assert [message_name(key) for key, _ in log.items()] == [names[0], names[2]]
    log.close()
    assert "could not be kept aside" in caplog.text
    assert list((tmp_path / "elsewhere").iterdir()) == []


# compact.


def mostly_dead(directory):
    """Segments of which one message each tenth is left.  → how many, and what waits."""
    spool = Spool(directory, segment_bytes=64 * 1024)
    for key in range(1, 201):
        spool.write([Put(key, b"state", b"head", b"%d " % key * 500)], wait=False)
    for key in range(1, 201):
        if key % 10:
            spool.write([Drop(key)], wait=False)
    spool.sync()
    count = spool.segments
    spool.close()
    return count, list(range(10, 201, 10))


def test_compact_gives_room_back_and_keeps_what_waits(top, capsys):
    segments, waiting = mostly_dead(top / "worker-0")
    status, printed = asked(capsys, "compact", "--spool", top)
    (worker,) = printed["workers"]
    assert status == 0
    assert worker["segments_before"] == segments
    # What is left, and the file being written, which is let be.
    assert worker["segments"] <= 2
    assert worker["compacted_segments"] >= segments - 2
    assert 0 < worker["copied_bytes"] < 2 * worker["living_bytes"]
    assert worker["disk_bytes"] < worker["disk_bytes_before"] / 2
    spool = Spool(top / "worker-0")
    assert [key for key, _ in spool.items()] == waiting
    assert all(b"".join(spool.body(key)) == b"%d " % key * 500 for key in waiting)
    spool.close()
    assert run(["spool", "compact", "--spool", str(top)]) == 0
    assert "worker-0: 0 segments compacted, 0 bytes copied" in capsys.readouterr().out


def test_compact_lets_be_what_is_less_dead_than_its_ratio(top, capsys):
    mostly_dead(top / "worker-0")
    printed = asked(capsys, "compact", "--spool", top, "--ratio", "95%")[1]
    assert printed["workers"][0]["compacted_segments"] == 0


@pytest.mark.parametrize("command", ["compact", "repair"])
def test_a_gateway_has_all_spools_also_while_a_worker_is_started_again(top, command, capsys):
    Spool(top / "worker-0").close()
    held = spooldirectory.lock(top)
    assert run(["spool", command, "--spool", str(top)]) == 3
    assert capsys.readouterr().err == (
        f"gwrelay: error: {top} is in use by process {os.getpid()}; stop it first\n"
    )
    os.close(held.descriptor)
    assert run(["spool", command, "--spool", str(top)]) == 0


def test_compact_is_refused_with_status_3_while_the_spool_is_in_use(top, capsys):
    held = Spool(top / "worker-0")
    before = picture(top)
    assert run(["spool", "compact", "--spool", str(top)]) == 3
    assert f"is in use by process {os.getpid()}" in capsys.readouterr().err
    assert picture(top) == before
    held.close()


def test_compact_says_what_a_ratio_is(top, capsys):
    mostly_dead(top / "worker-0")
    assert run(["spool", "compact", "--spool", str(top), "--ratio", "half"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("gwrelay: error: --ratio: 'half' is not a share; write a percentage")


# Mistakes.


@pytest.mark.parametrize("command", ["stat", "verify", "dump", "compact"])
def test_a_mistake_is_one_line_and_status_2(top, command, capsys):
    cases = {
        (): "--spool: not given; write --spool DIR or GWRELAY_SPOOL=DIR",
        ("--spool", f"{top}/no"): (
            f"--spool {top}/no: No such file or directory; name serve's --spool"
        ),
        ("--spool", str(top)): f"--spool {top}: no spool, it holds no worker-0",
    }
    for arguments, line in cases.items():
        assert run(["spool", command, *arguments]) == 2
        captured = capsys.readouterr()
        assert (captured.out, captured.err) == ("", f"gwrelay: error: {line}\n")
    assert list(top.iterdir()) == []


@pytest.mark.parametrize("command", ["stat", "verify", "dump", "repair", "compact"])
def test_a_spool_of_a_newer_version_is_status_2_and_left_as_it_is(top, command, capsys):
    (top / "worker-0").mkdir(mode=0o755)
    segment_of(top).write_bytes(header_block(Header(9, 1, bytes(16))))
    before = picture(top)
    assert run(["spool", command, "--spool", str(top)]) == 2
    assert capsys.readouterr().err == (
        f"gwrelay: error: --spool: cannot read {top}/worker-0: "
        f"spool {top}/worker-0 has format version 9; this program knows up to 1\n"
    )
    assert picture(top) == before


def test_a_spool_that_was_never_written_to_is_an_empty_one(tmp_path, capsys):
    Spool(tmp_path / "library").close()
    assert run(["spool", "verify", "--spool", str(tmp_path / "library")]) == 0
    assert capsys.readouterr().out == "library: whole: 0 segments, 0 frames, 0 messages\n"
    assert run(["spool", "repair", "--spool", str(tmp_path / "library")]) == 0
    assert capsys.readouterr().out == "library: nothing to repair\n"


@pytest.mark.parametrize("name", ["nonsense", "", "il0000000000u", "0" * 14, "001k0xanxg8zé"])
def test_what_is_no_message_id_is_status_2(top, name, capsys):
    filled(top / "worker-0", 1)
    assert run(["spool", "dump", "--spool", str(top), name]) == 2
    assert capsys.readouterr().err == (
        f"gwrelay: error: {name!r} is no message id; "
        "write 13 letters and digits, as the log and events do\n"
    )


@pytest.mark.parametrize("more", [[], ["0" * 13, "1" * 13], ["0" * 13, "--json"]])
def test_content_wants_exactly_one_id(top, more, capsys):
    assert run(["spool", "dump", "--spool", str(top), "--content", *more]) == 2
    assert capsys.readouterr().err.startswith("gwrelay: error: --content: ")


@pytest.mark.parametrize("number", [0, 1, 31, 32, 1_700_000_000_000_000, 32**13 - 1])
def test_a_message_id_is_read_back_from_its_name(number):
    assert message_id(message_name(number)) == number


@pytest.mark.parametrize("command", ["stat", "verify", "dump"])
def test_help_suffices(command, capsys):
    assert run(["spool", command, "--help"]) == 0
    out = capsys.readouterr().out
    for word in ("--spool DIR", "GWRELAY_SPOOL", "--json"):
        assert word in out


# Beside a running gateway.


def test_the_commands_work_beside_the_holder_and_change_nothing(top, capsysbinary):
    names = filled(top / "worker-0", 2)
    queue = Queue.open(top / "worker-0", hostname="gw.example.com")
    with segment_of(top).open("ab") as tail:
        tail.write(b"a frame that is being written")
    before = picture(top)
    status, printed = asked(capsysbinary, "verify", "--spool", top)
    assert (status, printed["workers"][0]["in_use_by"]) == (0, os.getpid())
    assert run(["spool", "verify", "--spool", str(top)]) == 0
    assert capsysbinary.readouterr().out.decode() == (
        f"worker-0: in use by process {os.getpid()}\n"
        "worker-0: whole: 1 segments, 2 frames, 2 messages\n"
    )
    assert asked(capsysbinary, "stat", "--spool", top)[1]["workers"][0]["in_use_by"] == os.getpid()
    assert run(["spool", "dump", "--spool", str(top), names[0]]) == 0
    assert run(["spool", "dump", "--spool", str(top), "--content", names[0]]) == 0
    assert picture(top) == before
    queue.close()


def test_no_command_changes_a_damaged_spool_that_nobody_holds(top, capsys):
    filled(top / "worker-0")
    flip(segment_of(top), FIRST + 40)
    tag = segment_of(top).read_bytes()[FIRST : FIRST + 8]
    with segment_of(top).open("ab") as tail:
        tail.write(tag + b"torn")
    (top / "worker-0" / "lock").unlink()
    (top / "worker-0").chmod(0o755)
    before = picture(top)
    for command in ("stat", "verify", "dump"):
        run(["spool", command, "--spool", str(top)])
    assert picture(top) == before


def test_no_greenlet_is_loaded_for_it(top):
    filled(top / "worker-0")
    script = (
        "import sys; from gwrelay.cli import run; "
        f"run(['spool', 'verify', '--spool', {str(top)!r}]); sys.exit('gevent' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=30, check=False).returncode == 0
