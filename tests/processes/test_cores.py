"""How many cores there are to be used."""

import os
from pathlib import Path

import pytest

from gwrelay.processes.cores import usable_cores

HERE = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000\n", HERE),
        ("50000 100000\n", 1),
        ("100000 100000\n", 1),
        ("150000 100000\n", min(2, HERE)),
        ("100000000 100000\n", HERE),
        ("", HERE),
    ],
)
def test_a_container_uses_what_it_may(tmp_path: Path, quota: str, cores: int) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(quota)
    assert usable_cores(file) == cores


def test_without_control_groups_all_that_this_process_may_use_count(tmp_path: Path) -> None:
    assert usable_cores(tmp_path / "none") == HERE


def test_a_process_that_is_bound_to_one_core_has_one(tmp_path: Path) -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert usable_cores(tmp_path / "none") == 1
    finally:
        os.sched_setaffinity(0, allowed)
