"""The directory that --spool names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gwrelay import spooldirectory
from gwrelay.errors import ConfigError
from support.processes import await_true


def test_directories_of_workers_beyond_the_number_there_is_are_left_over(tmp_path: Path) -> None:
    for name in ("worker-0", "worker-1", "worker-10", "worker-3", "worker-x", "worker-01"):
        (tmp_path / name).mkdir()
    (tmp_path / "worker-7").touch()
    assert spooldirectory.leftovers(tmp_path, 1) == [1, 3, 10]
    assert spooldirectory.leftovers(tmp_path, 11) == []


def test_a_lock_is_let_go_when_nobody_has_its_descriptor_any_more(tmp_path: Path) -> None:
    held = spooldirectory.lock(tmp_path)
    heir = os.dup(held.descriptor)
    os.close(held.descriptor)
    with pytest.raises(ConfigError, match=f"in use by process {os.getpid()}"):
        spooldirectory.lock(tmp_path)
    os.close(heir)
    os.close(spooldirectory.lock(tmp_path).descriptor)


def test_a_lock_names_its_holder_and_closes_its_file_to_others(tmp_path: Path) -> None:
    held = spooldirectory.lock(tmp_path)
    file = tmp_path / "lock"
    assert file.read_text() == f"{os.getpid()}\n"
    assert file.stat().st_mode & 0o777 == 0o600
    os.close(held.descriptor)


LOCKED = """
import os, sys
from pathlib import Path
from gwrelay import spooldirectory
held = spooldirectory.lock(Path(sys.argv[1]))
if os.fork() == 0:
    # An heir, as a worker is: it ends when it is told to, and its parent ends now.
    print(os.getpid(), flush=True)
    sys.stdin.readline()
    os._exit(0)
os._exit(0)
"""


def test_what_heirs_of_a_dead_holder_have_is_waited_for(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOCKED, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        heir = int(holder.stdout.readline())
        await_true(lambda: holder.poll() is not None, "the holder's end")
        released = [lambda: None]

        def look(_seconds: float) -> None:
            """In place of the pause between two looks."""
            if released:
                released.pop()
                os.kill(heir, 9)

        patched = pytest.MonkeyPatch()
        patched.setattr(spooldirectory.time, "sleep", look)
        try:
            held = spooldirectory.lock(tmp_path)
        finally:
            patched.undo()
        assert not released
        assert held.wait_s > 0, "its ports may be taken a moment longer"
        os.close(held.descriptor)


def test_a_raw_spool_is_no_directory_for_workers(tmp_path: Path) -> None:
    (tmp_path / "000000000001.segment").touch()
    with pytest.raises(ConfigError, match="not a spool"):
        spooldirectory.own_directory(str(tmp_path))
