"""What all benches have in common: their list, their table, their directory, their module."""

import subprocess
import sys
from pathlib import Path

import pytest

from gwrelay.cli import run
from gwrelay_bench import scenario
from gwrelay_bench.machine import Filesystem, filesystem, footprint, tree_bytes, usage
from gwrelay_bench.scenarios import NAMES, TOOLS
from support.benches import started
from support.processes import await_true

TINY = ("append", "--waiters", "1", "--seconds", "0.02", "--rounds", "1")


def test_help_lists_every_scenario_and_tool_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--help"]) == 0
    listed = capsys.readouterr().out.split("Commands:\n")[1].splitlines()
    told = {line.split()[0]: line.split(None, 1)[1] for line in listed if line[2:3].strip()}
    assert sorted(told) == sorted([*NAMES, *TOOLS])
    assert all(len(line) > 10 for line in told.values())


def test_an_unknown_scenario_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "appendix"]) == 2
    assert "append" in capsys.readouterr().err


def test_without_json_there_is_a_table_with_figures_baseline_and_targets(tmp_path: Path) -> None:
    done = started(*TINY, "--waiters", "64", "--dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "gwrelay bench append" in done.stdout
    assert "≥ 50,000" in done.stdout
    assert "filesystem" in done.stdout


def test_a_checkout_runs_it_as_a_module_too(tmp_path: Path) -> None:
    module = [sys.executable, "-m", "gwrelay_bench.append", *TINY[1:], "--dir", str(tmp_path)]
    done = subprocess.run(module, capture_output=True, text=True, timeout=60)
    assert "gwrelay bench append" in done.stdout, done.stderr


def test_a_temporary_directory_in_memory_is_refused_unless_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scenario, "filesystem", lambda _: Filesystem("tmpfs", "tmpfs"))
    assert run(["bench", *TINY]) == 2
    assert "--dir: " in capsys.readouterr().err


def test_the_filesystem_of_a_path_is_that_of_its_mount() -> None:
    assert filesystem(Path("/proc")).kind == "proc"
    assert not Filesystem("tmpfs", "tmpfs").syncs
    assert Filesystem("ext4", "/dev/vda").syncs


def test_the_peak_of_memory_is_not_below_what_is_resident() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        used = usage(process.pid)
        process.communicate(b"\n")
    assert used.peak_bytes >= used.resident_bytes > 0
    assert used.cpu_s >= 0


def test_who_has_ended_counts_for_its_time_and_takes_no_memory() -> None:
    """Nobody has asked yet how this child ended."""
    script = (
        "import subprocess; child = subprocess.Popen(['true'], stdout=subprocess.PIPE);"
        "child.stdout.read(); print(flush=True); input()"
    )
    words = [sys.executable, "-c", script]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        await_true(lambda: _is_zombie(parent.pid), "the child has not ended")
        used, (most, count) = usage(parent.pid), footprint(parent.pid)
        parent.communicate(b"\n")
    assert count == 1
    assert used.peak_bytes >= most > 0
    with pytest.raises(OSError, match=r"."):
        usage(parent.pid)
    assert footprint(parent.pid) == (0, 0)


def _is_zombie(parent: int) -> bool:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return any("(zombie)" in Path(f"/proc/{child}/status").read_text() for child in children)


def test_what_processes_share_counts_once() -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(); input()'])"
    words = [sys.executable, "-c", script]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        most, count = footprint(parent.pid)
        summed = usage(parent.pid).peak_bytes
        parent.communicate(b"\n")
    assert count == 2
    assert 0 < most < summed


def test_files_count_by_what_they_take_of_the_disk(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "file").write_bytes(b"x" * 10_000)
    assert 10_000 <= tree_bytes(tmp_path) < 100_000
