"""store.py: what a Spool promises its callers on a healthy disk."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from spool import Amend, Chunk, CorruptFrame, Drop, Put, Spool, SpoolClosed, SpoolFailed
from spool.files import Files
from spool.segment import name_of
from support.faulty_files import FaultyDisk
from support.spools import forget_checkpoint


def test_what_was_put_can_be_read(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.write([Put(1, b"state", b"head", b"body")])
    assert list(spool.items()) == [(1, b"state")]
    assert (spool.head(1), list(spool.body(1))) == (b"head", [b"body"])
    spool.close()


def test_items_come_oldest_first_with_their_newest_state(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.write([Put(2, b"two", b"", b""), Put(1, b"one", b"", b"")])
    spool.write([Amend(2, b"two again")])
    spool.write([Put(3, b"three", b"", b""), Drop(3)])
    assert list(spool.items()) == [(1, b"one"), (2, b"two again")]
    spool.close()


def test_items_may_be_walked_while_keys_come_and_go(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.write([Put(key, b"", b"", b"") for key in range(1, 6)])
    seen = []
    for key, _ in spool.items():
        seen.append(key)
        spool.write([Drop(key), Drop(key + 1), Put(key + 100, b"", b"", b"")])
    assert seen == [1, 3, 5]
    spool.close()


def test_a_dropped_key_is_a_key_error(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.write([Put(1, b"", b"", b"")])
    spool.write([Drop(1)])
    for ask in (spool.head, spool.body):
        with pytest.raises(KeyError):
            ask(1)
    spool.close()


def test_keys_follow_the_clock_and_never_come_twice(tmp_path: Path) -> None:
    now = 1000.0
    spool = Spool(tmp_path, clock=lambda: now)
    assert [spool.new_key() for _ in range(3)] == [1_000_000_000 + n for n in range(3)]
    now = 999.0
    assert spool.new_key() == 1_000_000_003
    now = 1001.0
    assert spool.new_key() == 1_001_000_000
    spool.write([Put(spool.new_key(), b"", b"", b"")])
    spool.write([Drop(1_001_000_001)])
    spool.close()
    spool = Spool(tmp_path, clock=lambda: 0.0)
    assert spool.new_key() == 1_001_000_002
    spool.close()


def test_spools_with_shares_of_the_keys_never_give_out_the_same(tmp_path: Path) -> None:
    spools = [Spool(tmp_path / str(n), clock=lambda: 1000.0, share=(n, 3)) for n in range(3)]
    keys = [spool.new_key() for _ in range(50) for spool in spools]
    assert len(set(keys)) == 150
    assert [key % 3 for key in keys[:3]] == [0, 1, 2]
    for spool in spools:
        spool.close()


def test_a_share_begins_above_keys_that_were_given_out_without_one(tmp_path: Path) -> None:
    spool = Spool(tmp_path, clock=lambda: 1000.0)
    last = [spool.new_key() for _ in range(5)][-1]
    spool.write([Put(last, b"", b"", b"")])
    spool.close()
    spool = Spool(tmp_path, clock=lambda: 1000.0, share=(1, 64))
    assert spool.last_key == last
    assert spool.new_key() > last
    spool.close()


def test_what_others_gave_out_is_not_given_out_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path, clock=lambda: 1000.0, share=(1, 64))
    spool.give_out_above(2_000_000_000)
    assert spool.new_key() == 2_000_000_000 + 1
    spool.give_out_above(1)
    assert spool.new_key() == 2_000_000_000 + 65
    spool.close()


def test_an_unwaited_put_can_be_read_at_once_and_is_durable_after_sync(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path)
    spool = Spool(tmp_path, files=disk.files)
    spool.write([Drop(7), Put(1, b"state", b"head", b"body")], wait=False)
    assert (spool.head(1), list(spool.body(1))) == (b"head", [b"body"])
    assert list(spool.items()) == []
    spool.sync()
    assert list(spool.items()) == [(1, b"state")]
    assert (spool.head(1), list(spool.body(1))) == (b"head", [b"body"])
    spool.write([Put(2, b"", b"", b"")], wait=False)
    spool.write([Drop(2)], wait=False)
    with pytest.raises(KeyError):
        spool.head(2)
    spool.close()


class CountedReads(Files):
    reads = 0

    def read(self, fd: int, offset: int, size: int) -> bytes:
        self.reads += 1
        return super().read(fd, offset, size)


def test_the_body_that_is_wanted_after_the_head_is_not_read_again(tmp_path: Path) -> None:
    opened: list[CountedReads] = []

    def files(path: str, sync: Callable[[int], None]) -> Files:
        opened.append(CountedReads(path, sync))
        return opened[0]

    spool = Spool(tmp_path, files=files)
    spool.write([Put(1, b"", b"head", b"body")])
    spool.write([Put(2, b"", b"another head", b"another body")])
    before = opened[0].reads
    assert (spool.head(1), list(spool.body(1))) == (b"head", [b"body"])
    assert opened[0].reads == before + 1
    # Nobody is given what is another's.
    assert (spool.head(1), spool.head(2)) == (b"head", b"another head")
    assert (list(spool.body(1)), list(spool.body(2))) == ([b"body"], [b"another body"])
    assert spool.head(1) == b"head"
    spool.write([Drop(1)])
    with pytest.raises(KeyError):
        spool.body(1)
    spool.close()


def test_the_newest_state_is_told_before_it_is_durable(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path / "spool")
    spool = Spool(disk.path, files=disk.files)
    spool.write([Put(1, b"one", b"", b""), Put(2, b"two", b"", b"")])
    spool.write([Amend(1, b"newer")], wait=False)
    spool.write([Drop(2), Put(3, b"report", b"", b"")], wait=False)
    assert spool.state(1) == b"newer"
    assert spool.state(3) == b"report"
    with pytest.raises(KeyError):
        spool.state(2)
    assert dict(spool.items()) == {1: b"one", 2: b"two"}
    spool.write([Amend(1, b"newest")], wait=False)
    spool.sync()
    assert spool.state(1) == b"newest"
    assert dict(spool.items()) == {1: b"newest", 3: b"report"}


def test_load_gives_out_each_key_once_and_lets_it_end_meanwhile(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.write([Put(key, b"%d" % key, b"", b"") for key in range(1, 2501)])
    seen = {}
    for batch in spool.load():
        seen.update(batch)
        spool.write([Drop(2400)], wait=False)
        spool.sync()
    assert sorted(seen) == [*range(1, 2400), *range(2401, 2501)]
    assert seen[7] == b"7"
    spool.close()


def test_unwaited_records_ride_with_the_next_commit_and_cost_no_sync(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.write([Put(1, b"old", b"", b"")])
    syncs = spool.counters.syncs
    spool.write([Amend(1, b"new")], wait=False)
    spool.write([Put(2, b"", b"", b"")])
    assert spool.counters.syncs == syncs + 1
    assert dict(spool.items())[1] == b"new"
    spool.close()


def test_run_commits_what_nobody_waits_for_and_removes_what_nobody_needs(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=2048)
    for key in range(1, 4):
        spool.write([Put(key, b"", b"", b"x" * 1500)])
    committed = threading.Event()
    stop = threading.Event()
    spool.write([Drop(1), Drop(2)], wait=False)

    def watch() -> None:
        while (tmp_path / name_of(1)).exists():
            stop.wait(0.01)
        committed.set()

    threads = [threading.Thread(target=spool.run, args=(stop,)), threading.Thread(target=watch)]
    for thread in threads:
        thread.start()
    assert committed.wait(10)
    stop.set()
    for thread in threads:
        thread.join()
    assert [key for key, _ in spool.items()] == [3]
    spool.close()


def test_close_commits_what_is_left(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.write([Put(1, b"state", b"", b"")], wait=False)
    spool.close()
    spool.close()
    spool = Spool(tmp_path)
    assert list(spool.items()) == [(1, b"state")]
    spool.close()


def test_a_closed_spool_takes_and_gives_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.write([Put(1, b"", b"", b"")])
    spool.close()
    for use in (
        lambda: spool.write([Drop(1)]),
        lambda: spool.write([Drop(1)], wait=False),
        spool.sync,
        lambda: spool.head(1),
        lambda: spool.body(1),
    ):
        with pytest.raises(SpoolClosed):
            use()
    spool.run(threading.Event())


def test_an_empty_batch_is_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.write([])
    spool.sync()
    assert spool.counters.commits == 0
    spool.close()


def test_segments_roll_and_dead_ones_go_at_the_next_start(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=4096)
    for key in range(1, 30):
        spool.write([Put(key, b"", b"", b"x" * 1000)])
    assert spool.segments > 5
    sizes = [path.stat().st_size for path in tmp_path.glob("*.segment")]
    assert max(sizes) <= 4096
    spool.write([Drop(key) for key in range(1, 29)])
    spool.close()
    spool = Spool(tmp_path, segment_bytes=4096)
    # That of key 29, and that of the drops.
    assert spool.segments <= 2
    assert [key for key, _ in spool.items()] == [29]
    spool.close()


def test_a_batch_larger_than_a_segment_gets_one_of_its_own(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=4096)
    for key in (1, 2, 3):
        spool.write([Put(key, b"", b"", bytes([key]) * 10_000)])
        spool.write([Amend(key, b"small")])
    spool.close()
    spool = Spool(tmp_path, segment_bytes=4096)
    assert [list(spool.body(key)) for key in (1, 2, 3)] == [
        [bytes([n]) * 10_000] for n in (1, 2, 3)
    ]
    spool.close()


def test_a_drop_outlives_the_segment_of_its_put(tmp_path: Path) -> None:
    """The drop's segment holds nothing that lives, and yet without it key 1 would come back."""
    spool = Spool(tmp_path, segment_bytes=2048)
    spool.write([Put(1, b"", b"", b"x" * 400), Put(2, b"", b"", b"x" * 400)])  # segment 1
    spool.write([Put(3, b"", b"", b"x" * 1500)])  # segment 2
    spool.write([Drop(1), Drop(3)])
    spool.write([Put(4, b"", b"", b"x" * 1500)])  # segment 3 or later
    for _ in range(4):
        spool.close()
        spool = Spool(tmp_path, segment_bytes=2048)
        assert [key for key, _ in spool.items()] == [2, 4]
        spool.write([Put(99, b"", b"", b"x" * 1500), Drop(99)])
    spool.close()


@pytest.mark.parametrize("seed", range(20))
def test_removals_are_durable_in_an_order_that_revives_nothing(tmp_path: Path, seed: int) -> None:
    """Segment 2 holds only the drop of what is in segment 1.  Both go, but never 2 without 1."""
    disk = FaultyDisk(tmp_path / "spool", seed)

    def opened() -> Spool:
        return Spool(disk.path, files=disk.files, segment_bytes=2048)

    spool = opened()
    spool.write([Put(1, b"", b"", b"x" * 900)])
    spool.write([Put(2, b"", b"", b"x" * 900), Drop(1), Drop(2)])
    spool.write([Put(3, b"", b"", b"x" * 900)])
    spool.close()
    spool = opened()
    assert spool.segments == 1
    disk.crash()
    spool = opened()
    assert [key for key, _ in spool.items()] == [3]
    spool.close()


def test_a_large_body_is_written_in_chunks_and_read_in_order(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=4096)
    pieces = [bytes([n]) * 1000 for n in range(20)]
    for seq, piece in enumerate(pieces):
        spool.write([Chunk(1, seq, piece)], wait=False)
    spool.write([Put(1, b"state", b"head", b"last", len(pieces))])
    assert list(spool.body(1)) == [*pieces, b"last"]
    spool.close()
    spool = Spool(tmp_path, segment_bytes=4096)
    assert list(spool.body(1)) == [*pieces, b"last"]
    spool.write([Drop(1)])
    assert spool.living_bytes == 0
    spool.close()


@pytest.mark.parametrize("written", [[], [0, 1], [1, 2], [0, 2], [0, 1, 2, 3]])
def test_a_put_that_names_other_chunks_than_there_are_is_refused(
    tmp_path: Path, written: list[int]
) -> None:
    spool = Spool(tmp_path)
    for seq in written:
        spool.write([Chunk(1, seq, b"piece")], wait=False)
    with pytest.raises(SpoolFailed, match="chunks"):
        spool.write([Put(1, b"", b"", b"", 3)])
    assert (list(spool.items()), spool.living_bytes) == ([], 0)
    spool.close()


def test_a_key_given_up_after_chunks_leaves_nothing_alive(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.write([Chunk(1, 0, b"x" * 1000)], wait=False)
    spool.write([Drop(1)], wait=False)
    spool.sync()
    assert spool.living_bytes == 0
    spool.close()


def test_chunks_do_not_pile_up_in_memory_without_end(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    piece = bytes(1024 * 1024)
    for seq in range(30):
        spool.write([Chunk(1, seq, piece)], wait=False)
    assert spool.counters.frames >= 20
    spool.close()


def test_damage_that_has_no_place_is_told_without_an_offset(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=2048)
    for seq in range(3):
        spool.write([Chunk(7, seq, b"x" * 1500)])
    spool.write([Put(7, b"", b"", b"last", 3)])
    (tmp_path / name_of(2)).unlink()
    with pytest.raises(CorruptFrame, match=r"^segment 2 is missing$"):
        list(spool.body(7))
    spool.close()
    forget_checkpoint(tmp_path)
    spool = Spool(tmp_path)
    with pytest.raises(CorruptFrame, match=r"^key 7 misses chunk 1$"):
        spool.body(7)
    spool.close()


def test_the_commit_is_synced_before_write_returns(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path)
    spool = Spool(tmp_path, files=disk.files)
    for key in range(1, 10):
        spool.write([Put(key, b"", b"", b"body %d" % key)])
        assert b"body %d" % key in disk.content(name_of(1))
    assert disk.synced[0] == ""  # the directory entry, before anything is acknowledged
    spool.close()


def test_short_writes_are_gone_on_with(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path)
    disk.short_writes = True
    spool = Spool(tmp_path, files=disk.files, segment_bytes=8192)
    for key in range(1, 50):
        spool.write([Put(key, b"", b"", bytes([key]) * 300)], wait=key % 7 == 0)
    spool.close()
    spool = Spool(tmp_path)
    assert [list(spool.body(key)) for key in range(1, 50)] == [
        [bytes([k]) * 300] for k in range(1, 50)
    ]
    spool.close()
