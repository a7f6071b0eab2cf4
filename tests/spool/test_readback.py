"""readback.py: neighbours come with one read, and each is what stands at its place."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spool import CorruptFrame, Put, Spool
from spool.files import Files
from spool.segment import name_of

BODY = b"b" * 1000


class Disk(Files):
    """Counts what is read, and does not give out more than `most_bytes` at once."""

    reads = 0
    most_bytes = 1 << 30

    def read(self, fd: int, offset: int, count: int) -> bytes:
        if count > self.most_bytes:
            raise OSError(errno.EIO, "a bad sector")
        self.reads += 1
        return super().read(fd, offset, count)


class Opened:
    """A spool, and the disk that it is on."""

    def __init__(self, path: Path) -> None:
        self.spool = Spool(path, files=self._files)
        self.disk.reads = 0

    def _files(self, path: str, sync: Callable[[int], None]) -> Files:
        self.disk = Disk(path, sync)
        return self.disk

    def fill(self, first: int, last: int) -> None:
        for key in range(first, last + 1):
            self.spool.write([Put(key, b"", b"head %d" % key, BODY)])

    def reads_right(self, key: int) -> bool:
        return self.spool.head(key) == b"head %d" % key and [*self.spool.body(key)] == [BODY]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    one = Opened(tmp_path)
    one.fill(1, 100)
    yield one
    one.spool.close()


def test_what_is_read_in_its_order_takes_few_reads(opened: Opened) -> None:
    assert all(opened.reads_right(key) for key in range(1, 101))
    assert opened.disk.reads == 3


def test_what_is_read_in_no_order_is_read_alone(opened: Opened) -> None:
    sizes = []
    read = opened.disk.read

    def noting(fd: int, offset: int, count: int) -> bytes:
        sizes.append(count)
        return read(fd, offset, count)

    opened.disk.read = noting  # type: ignore[method-assign]
    assert all(opened.reads_right(key) for key in (90, 50, 3, 77))
    assert len(sizes) == 4
    assert max(sizes) < 2000


def test_what_was_not_there_yet_when_its_place_was_read_is_found(
    opened: Opened, tmp_path: Path
) -> None:
    # As one that was made ahead of need.
    os.truncate(tmp_path / name_of(1), 1 << 20)
    assert all(opened.reads_right(key) for key in (98, 99, 100))
    opened.fill(101, 103)
    assert all(opened.reads_right(key) for key in (101, 102, 103))


def test_a_disk_that_does_not_give_out_the_neighbours_gives_out_the_frame(opened: Opened) -> None:
    opened.disk.most_bytes = 2000
    assert all(opened.reads_right(key) for key in range(1, 101))
    assert opened.disk.reads == 100


def test_damage_to_one_is_none_to_its_neighbours(opened: Opened, tmp_path: Path) -> None:
    with (tmp_path / name_of(1)).open("r+b") as segment:
        content = segment.read()
        segment.seek(content.index(b"head 3") + 100)
        segment.write(b"!")
    assert opened.reads_right(1)
    assert opened.reads_right(2)
    with pytest.raises(CorruptFrame):
        opened.spool.head(3)
    assert all(opened.reads_right(key) for key in range(4, 101))
