"""files.py: the directory, its owner, its modes and its lock."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spool import Put, Spool, SpoolLocked, SpoolOwner
from spool.files import Files


def opened(path: Path) -> Files:
    return Files(str(path), os.fdatasync)


@pytest.fixture
def loose_umask() -> object:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("loose_umask")
def test_a_new_spool_is_for_us_alone_whatever_the_umask(tmp_path: Path) -> None:
    with_files = tmp_path / "deep" / "spool"
    spool = Spool(with_files)
    spool.write([Put(1, b"", b"", b"")])
    assert with_files.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in with_files.iterdir()} == {0o600}
    spool.close()


def test_a_directory_others_can_enter_is_tightened_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tmp_path.chmod(0o755)
    Spool(tmp_path).close()
    assert tmp_path.stat().st_mode & 0o777 == 0o700
    assert "0755" in caplog.text
    caplog.clear()
    Spool(tmp_path).close()
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_another_owners_directory_is_refused_and_left_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    os.chown(tmp_path, 12345, -1)
    with pytest.raises(SpoolOwner, match="12345"):
        Spool(tmp_path)
    assert (list(tmp_path.iterdir()), tmp_path.stat().st_mode & 0o777) == ([], 0o755)
    os.chown(tmp_path, 0, -1)


def test_a_second_opening_is_refused_and_names_the_holder(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with pytest.raises(SpoolLocked, match=str(os.getpid())) as caught:
        Spool(tmp_path)
    assert caught.value.pid == os.getpid()
    spool.close()
    Spool(tmp_path).close()


HOLDER = """
import sys, spool
held = spool.Spool(sys.argv[1])
held.write([spool.Put(5, b"state", b"", b"")])
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_killed_process_leaves_no_lock_behind(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(SpoolLocked, match=str(holder.pid)):
        Spool(tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    spool = Spool(tmp_path)
    assert list(spool.items()) == [(5, b"state")]
    spool.close()


def test_a_lock_without_a_readable_pid_still_locks(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    (tmp_path / "lock").write_text("nobody\n")
    with pytest.raises(SpoolLocked) as caught:
        Spool(tmp_path)
    assert caught.value.pid is None
    spool.close()


def test_creating_never_follows_a_link_nor_takes_an_existing_file(tmp_path: Path) -> None:
    files = opened(tmp_path)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "link").symlink_to(victim)
    for name in ("link", "victim"):
        with pytest.raises(FileExistsError):
            files.create(name)
    assert victim.read_text() == "precious"
    files.close()


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_only_regular_files_are_opened(tmp_path: Path, kind: str) -> None:
    files = opened(tmp_path)
    odd = tmp_path / "odd"
    if kind == "link":
        odd.symlink_to("/etc/hostname")
    elif kind == "fifo":
        os.mkfifo(odd)
    else:
        odd.mkdir()
    with pytest.raises(OSError, match=r".*"):
        files.open("odd")
    files.close()


def test_read_gives_less_only_where_the_file_ends(tmp_path: Path) -> None:
    files = opened(tmp_path)
    fd = files.create("some")
    assert files.write(fd, [b"abc", b"", b"def"], 2) == 6
    assert [files.read(fd, offset, 4) for offset in (0, 2, 6, 8, 99)] == [
        b"\0\0ab",
        b"abcd",
        b"ef",
        b"",
        b"",
    ]
    files.close_file(fd)
    files.close()


class BadSector(Files):
    def read(self, fd: int, offset: int, count: int) -> bytes:
        if offset < 9000 < offset + count:
            raise OSError(5, "Input/output error")
        return super().read(fd, offset, count)


def test_salvage_puts_zeros_for_the_page_that_cannot_be_read(tmp_path: Path) -> None:
    files = BadSector(str(tmp_path), os.fdatasync)
    fd = files.create("some")
    files.write(fd, [b"x" * 20_000], 0)
    assert files.salvage(fd, 0, 99_999) == b"x" * 8192 + bytes(4096) + b"x" * (20_000 - 12_288)
    files.close_file(fd)
    files.close()


def test_descriptors_are_given_back(tmp_path: Path) -> None:
    # Counted after each round: in the first one greenlets open descriptors of their own.
    open_after = []
    for _ in range(3):
        spool = Spool(tmp_path)
        spool.write([Put(spool.new_key(), b"", b"head", b"body")])
        for key, _ in spool.items():
            assert spool.head(key) == b"head"
            assert list(spool.body(key)) == [b"body"]
        with pytest.raises(SpoolLocked):
            Spool(tmp_path)
        spool.close()
        time.sleep(0.001)  # patched, os.close() of a directory waits for a turn of the loop
        open_after.append(len(os.listdir("/proc/self/fd")))
    assert len(set(open_after)) == 1
