"""quarantine.py: what a start found damaged is kept aside, and never in the start's way."""

import errno
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from spool import Drop, Put, Spool
from spool.audit import Audit
from spool.files import Files
from spool.quarantine import LIMIT_BYTES, Quarantine
from spool.segment import FIRST, name_of
from support.spools import forget_checkpoint


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed spool with three messages in its one segment."""
    spool = Spool(tmp_path / "spool")
    for key in (1, 2, 3):
        spool.write([Put(key, b"state", b"head", b"body %d" % key)])
    spool.close()
    forget_checkpoint(tmp_path / "spool")
    return tmp_path / "spool"


def frames(raw: bytes) -> list[tuple[int, int]]:
    """(offset, end) of each frame."""
    found, at = [], FIRST
    while at < len(raw):
        end = at + 20 + int.from_bytes(raw[at + 12 : at + 16], "little")
        found.append((at, end))
        at = end
    return found


def damage(path: Path, frame: int) -> tuple[int, bytes]:
    """Flip a bit in this frame.  → its offset, and the bytes that stand there now."""
    file = path / name_of(1)
    raw = bytearray(file.read_bytes())
    start, end = frames(raw)[frame]
    raw[end - 4] ^= 1
    file.write_bytes(raw)
    return start, bytes(raw[start:end])


def torn(path: Path, rest: bytes = b"torn") -> bytes:
    """What a write that was cut short leaves in segment 1: its tag, and some of the rest."""
    return (path / name_of(1)).read_bytes()[FIRST : FIRST + 8] + rest


def kept(path: Path) -> list[tuple[str, bytes]]:
    """(name without its checksum, content) of the quarantine's files, by name."""
    files = sorted((path / "quarantine").glob("*"))
    return [(file.name.rpartition("-")[0], file.read_bytes()) for file in files]


def living(path: Path, files: Callable[[str, Callable[[int], None]], Files] = Files) -> list[int]:
    spool = Spool(path, files=files)
    keys = [key for key, _ in spool.items()]
    spool.close()
    return keys


def test_a_whole_spool_has_no_quarantine(path: Path) -> None:
    living(path)
    assert not (path / "quarantine").exists()


def test_a_damaged_frame_is_kept_under_its_segment_and_offset(path: Path) -> None:
    offset, raw = damage(path, 1)
    assert living(path) == [1, 3]
    assert kept(path) == [(f"{1:012}-{offset}", raw)]


def test_it_is_kept_once_however_often_the_spool_is_opened(path: Path) -> None:
    damage(path, 0)
    damage(path, 2)
    living(path)
    before = kept(path)
    assert len(before) == 2
    living(path)
    living(path)
    assert kept(path) == before


def test_a_torn_tail_is_kept_before_it_is_cut(path: Path) -> None:
    file = path / name_of(1)
    whole = file.read_bytes()
    with file.open("ab") as tail:
        tail.write(torn(path))
    assert living(path) == [1, 2, 3]
    assert file.read_bytes() == whole
    assert kept(path) == [(f"{1:012}-{len(whole)}", torn(path))]


def test_a_tail_without_the_tag_is_no_tail(path: Path) -> None:
    """It is what an earlier life of the file left there, and is written over."""
    with (path / name_of(1)).open("ab") as tail:
        tail.write(b"an earlier life")
    assert living(path) == [1, 2, 3]
    assert kept(path) == []


def test_two_tails_torn_at_the_same_place_are_two_files(path: Path) -> None:
    tails = [torn(path), torn(path, b"worn")]
    for content in tails:
        with (path / name_of(1)).open("ab") as tail:
            tail.write(content)
        living(path)
    assert sorted(content for _, content in kept(path)) == tails


def test_zeros_are_not_kept_but_for_the_rest_of_a_sector(path: Path) -> None:
    file = path / name_of(1)
    whole = file.read_bytes()
    file.write_bytes(whole + bytes(3_000_000))
    living(path)
    assert not (path / "quarantine").exists()
    file.write_bytes(whole + bytes(2_000_000) + torn(path) + bytes(3_000_000))
    living(path)
    ((_, content),) = kept(path)
    assert content.rstrip(b"\0") == bytes(2_000_000) + torn(path)
    assert len(content) - 2_000_012 < 512


def test_only_the_owner_may_read_it(path: Path) -> None:
    before = os.umask(0)
    try:
        damage(path, 1)
        living(path)
    finally:
        os.umask(before)
    assert (path / "quarantine").stat().st_mode & 0o777 == 0o700
    (file,) = (path / "quarantine").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_it_outlives_the_segment(path: Path) -> None:
    damage(path, 1)
    spool = Spool(path, segment_bytes=2048)
    spool.write([Drop(1), Drop(3)])
    for key in (4, 5):
        spool.write([Put(key, b"", b"", b"x" * 1500)])
        spool.write([Drop(key)])
    spool.close()
    living(path)
    assert not (path / name_of(1)).exists()
    assert len(kept(path)) == 1


def test_what_a_crash_left_half_written_is_written_again(path: Path) -> None:
    _, raw = damage(path, 1)
    living(path)
    (file,) = (path / "quarantine").iterdir()
    file.write_bytes(raw[:5])
    forget_checkpoint(path)
    living(path)
    assert file.read_bytes() == raw
    assert file.stat().st_mode & 0o777 == 0o600


def test_all_of_it_together_is_bounded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = Files(str(tmp_path), os.fdatasync)
    quarantine = Quarantine(files, logging.getLogger("spool"), limit_bytes=3 * 4096)

    def read(offset: int, count: int) -> bytes:
        return b"x" * count

    for offset in (0, 10_000, 20_000):
        quarantine.keep(read, 1, offset, 3000)
    assert "kept aside: [Errno" not in caplog.text
    quarantine.keep(read, 1, 30_000, 1)
    assert "1 bytes of segment 1 at 30000 could not be kept aside" in caplog.text
    assert "the quarantine holds 12288 bytes; empty it" in caplog.text
    assert len(kept(tmp_path)) == 3
    files.close()


def test_a_finding_too_large_is_only_logged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    size = (path / name_of(1)).stat().st_size
    with (path / name_of(1)).open("r+b") as file:
        file.seek(size + LIMIT_BYTES)
        file.write(torn(path))
    assert living(path) == [1, 2, 3]
    assert "could not be kept aside" in caplog.text
    assert kept(path) == []
    assert (path / name_of(1)).stat().st_size == size


class _Refusing(Files):
    """Whose quarantine's disk fails at `stage`."""

    stage = ""

    def subdirectory(self, name: str) -> Files:
        if self.stage == "directory":
            raise OSError(errno.ENOSPC, "no room")
        found = type(self)(os.path.join(self._path, name), self._sync)
        found.stage = f"in {self.stage}"
        return found

    def create(self, name: str) -> int:
        self._fail("create", errno.ENOSPC)
        return super().create(name)

    def write(self, fd: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
        self._fail("write", errno.ENOSPC)
        if self.stage == "in short":
            return 0
        return super().write(fd, buffers, offset)

    def sync(self, fd: int) -> None:
        self._fail("sync", errno.EIO)
        super().sync(fd)

    def _fail(self, stage: str, number: int) -> None:
        if self.stage == f"in {stage}":
            raise OSError(number, os.strerror(number))


@pytest.mark.parametrize("stage", ["directory", "create", "write", "short", "sync"])
def test_a_disk_that_refuses_it_never_stops_the_start(
    path: Path, stage: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = path / name_of(1)
    damage(path, 1)
    whole = file.stat().st_size
    with file.open("ab") as tail:
        tail.write(torn(path))

    def files(name: str, sync: Callable[[int], None]) -> Files:
        found = _Refusing(name, sync)
        found.stage = stage
        return found

    assert living(path, files) == [1, 3]
    assert caplog.text.count("could not be kept aside") == 2
    assert kept(path) == []
    assert file.stat().st_size == whole


def test_a_file_in_the_place_of_the_directory_never_stops_the_start(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage(path, 1)
    (path / "quarantine").write_text("not a directory")
    assert living(path) == [1, 3]
    assert "could not be kept aside" in caplog.text


def test_an_audit_lists_what_is_there(path: Path) -> None:
    _, raw = damage(path, 1)
    with Audit(path) as audit:
        assert audit.quarantined == []
    living(path)
    (file,) = (path / "quarantine").iterdir()
    with Audit(path) as audit:
        assert audit.quarantined == [(file.name, len(raw))]


def test_an_audit_lists_nothing_through_a_link(path: Path) -> None:
    (path.parent / "elsewhere").mkdir()
    (path.parent / "elsewhere" / "a secret name").write_bytes(b"another's")
    (path / "quarantine").symlink_to(path.parent / "elsewhere")
    with Audit(path) as audit:
        assert audit.quarantined == []
