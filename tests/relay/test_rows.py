"""Rows that several processes share: found by all, claimed by one, let go by the dead."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gwrelay.relay.rows import CELL_BYTES, WINDOW, Busy, Rows, key_of


class Table:
    def __init__(self, path: Path, capacity: int = 64) -> None:
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        self.cells = memoryview(bytearray((capacity + WINDOW) * CELL_BYTES)).cast("Q")
        self.rows = Rows(self.cells, capacity, self.descriptor)

    def claim(self, key: int) -> int:
        with self.rows.claimed(key, self.is_unused) as row:
            return row

    def is_unused(self, row: int) -> bool:
        return not self.cells[row]


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(tmp_path / "table")


def test_a_key_is_the_same_everywhere_and_another_for_other_parts() -> None:
    script = "from gwrelay.relay.rows import key_of; print(key_of('mx.a.example', 25))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert int(done.stdout) == key_of("mx.a.example", 25)
    keys = {key_of("a", 25), key_of("a", "25"), key_of("a25"), key_of(("a", 25)), key_of()}
    assert len(keys) == 5
    assert 0 not in keys


def test_a_key_that_was_given_a_row_is_found_there(table: Table) -> None:
    assert table.rows.find(5) is None
    row = table.claim(5)
    assert table.rows.find(5) == row
    assert table.claim(5) == row


def test_keys_of_the_same_window_have_rows_of_their_own_until_it_is_full(table: Table) -> None:
    keys = [63 + 64 * n for n in range(1, WINDOW + 1)]  # the last window, which goes past the end
    rows = [table.claim(key) for key in keys]
    assert len(set(rows)) == WINDOW
    assert [table.rows.find(key) for key in keys] == rows
    with pytest.raises(Busy):
        table.claim(63)


def test_a_row_that_is_free_again_goes_to_another_key(table: Table) -> None:
    row = table.claim(7)
    with table.rows.claimed(7 + 64, lambda _row: True) as other:
        assert other == row
    assert table.rows.find(7) is None
    assert table.rows.find(7 + 64) == row


HOLDER = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_rows import Table
table = Table(Path(sys.argv[1]))
with table.rows.claimed(int(sys.argv[3]), table.is_unused):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that holds the window of key 5."""
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "table"), here, "5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_who_finds_a_window_locked_is_told_so_and_does_not_wait_for_a_stopped_holder(
    table: Table, holder: "subprocess.Popen[bytes]"
) -> None:
    holder.send_signal(signal.SIGSTOP)
    for key in (5, 5 + WINDOW - 1, 0, 64):
        with pytest.raises(Busy):
            table.claim(key)
    table.claim(5 + WINDOW)
    assert table.rows.find(5) is None, "to look for a key takes no lock"


def test_a_killed_holder_leaves_no_lock_behind(
    table: Table, holder: "subprocess.Popen[bytes]"
) -> None:
    holder.kill()
    holder.wait()
    table.claim(5)


def test_a_claim_that_ends_with_an_error_is_ended(table: Table, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), table.rows.claimed(5, table.is_unused):
        raise ZeroDivisionError
    script = (
        "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "table")], check=True)
    fcntl.lockf(table.descriptor, fcntl.LOCK_UN)
