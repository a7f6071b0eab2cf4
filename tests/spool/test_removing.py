"""A spool is taken away only when nothing is in it."""

import errno
from pathlib import Path

import pytest

from spool import Amend, Drop, Put, Spool, SpoolLocked, remove_if_empty
from spool.files import Files
from spool.segment import name_of


def drained(path: Path, keys: int = 50) -> Path:
    """A spool whose keys have all ended, in segments of which some are gone."""
    spool = Spool(path, segment_bytes=1024 * 1024)
    for key in range(1, keys + 1):
        spool.write([Put(key, b"state", b"head", b"x" * 100_000)])
    for key in range(1, keys + 1):
        spool.write([Amend(key, b"other")])
        spool.write([Drop(key)])
    spool.close()
    return path


def is_gone(path: Path) -> bool:
    """Whether nothing stood in the way of its removal."""
    try:
        assert remove_if_empty(path) == ""
    except OSError:
        return False
    return True


def test_an_empty_one_is_gone(tmp_path: Path) -> None:
    path = drained(tmp_path / "worker-1")
    assert len(list(path.glob("*.segment"))) > 1
    assert remove_if_empty(path) == ""
    assert list(tmp_path.iterdir()) == []


def test_one_key_is_enough_to_keep_it(tmp_path: Path) -> None:
    path = drained(tmp_path / "worker-1")
    spool = Spool(path)
    spool.write([Put(99, b"", b"", b"body")])
    spool.close()
    before = sorted(file.name for file in path.iterdir())
    assert remove_if_empty(path) == "it holds 1 messages"
    assert sorted(file.name for file in path.iterdir()) == before
    spool = Spool(path)
    assert list(spool.body(99)) == [b"body"]
    spool.close()


def test_damage_keeps_it_for_somebody_to_look_at(tmp_path: Path) -> None:
    path = drained(tmp_path / "worker-1", keys=1)
    segment = path / name_of(1)
    content = bytearray(segment.read_bytes())
    at = content.index(b"x" * 100)
    content[at : at + 10] = b"y" * 10
    segment.write_bytes(content)
    assert remove_if_empty(path) == "it is damaged"
    assert segment.exists()


def test_what_was_kept_aside_keeps_it(tmp_path: Path) -> None:
    path = drained(tmp_path / "worker-1", keys=1)
    (path / "quarantine").mkdir()
    (path / "quarantine" / "something").touch()
    assert remove_if_empty(path) == "damaged parts are kept aside in it"


def test_an_empty_quarantine_does_not(tmp_path: Path) -> None:
    path = drained(tmp_path / "worker-1", keys=1)
    (path / "quarantine").mkdir()
    assert remove_if_empty(path) == ""
    assert not path.exists()


def test_other_things_in_it_are_left_alone(tmp_path: Path) -> None:
    path = drained(tmp_path / "worker-1", keys=1)
    (path / "notes.txt").touch()
    assert remove_if_empty(path) == "it holds 'notes.txt'"
    assert (path / name_of(1)).exists()


def test_one_that_somebody_has_is_refused(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "worker-1")
    with pytest.raises(SpoolLocked):
        remove_if_empty(tmp_path / "worker-1")
    spool.close()


def test_a_removal_that_is_cut_short_leaves_an_empty_spool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever that is: nothing that had ended is there again."""
    remove, left = Files.remove, [0]

    def run_out(files: Files, name: str) -> None:
        if not left[0]:
            raise OSError(errno.EIO, "cut short")
        left[0] -= 1
        remove(files, name)

    for count in range(1000):
        path = drained(tmp_path / f"cut-{count}")
        left[0] = count
        with monkeypatch.context() as patched:
            patched.setattr(Files, "remove", run_out)
            if is_gone(path):
                break
        spool = Spool(path)
        assert len(spool) == 0
        spool.close()
        assert remove_if_empty(path) == ""
    assert count > 3, "checkpoint, segments and lock go one by one"
