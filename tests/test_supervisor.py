"""The process that starts, watches and restarts workers: here with workers that carry no mail.

With real ones it is in tests/flow/test_workers.py.
"""

import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from support.fake_gateway import LAST_ID
from support.processes import (
    Program,
    await_true,
    children,
    free_port,
    has_open,
    need_root,
    program,
)

_TESTS = Path(__file__).resolve().parent


class Life(NamedTuple):
    worker: int
    pid: int
    #: What it was let go with.
    ids_above: int


class Supervised:
    """One supervisor, started by `start`, and what its workers wrote."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.spool = directory / "spool"
        self.program: Program | None = None

    def plan(self, worker: int, *words: str) -> None:
        (self.directory / f"plan-{worker}").write_text(",".join(words))

    def launch(self, *flags: str) -> Program:
        path = os.pathsep.join((str(_TESTS), os.environ.get("PYTHONPATH", "")))
        words = [f"--spool={self.spool}", "--listen=127.0.0.1:0", *flags]
        self.program = Program(
            [sys.executable, "-m", "support.fake_gateway", str(self.directory), *words],
            self.directory / "log",
            environment={**os.environ, "PYTHONPATH": path},
        )
        return self.program

    def start(self, *flags: str) -> "Supervised":
        self.launch(*flags).await_ready(lambda: "ready: listening" in self.log)
        return self

    @property
    def running(self) -> Program:
        assert self.program is not None
        return self.program

    @property
    def log(self) -> str:
        return self.running.output

    @property
    def pids(self) -> list[int]:
        return children(self.running.popen.pid)

    def noted(self, kind: str) -> list[list[int]]:
        path = self.directory / "lives"
        lines = path.read_text().splitlines() if path.exists() else []
        return [[*map(int, line.split()[1:])] for line in lines if line.split()[0] == kind]

    def lives(self, worker: int) -> list[Life]:
        return [
            life for life in (Life(*words) for words in self.noted("life")) if life.worker == worker
        ]

    def await_lives(self, worker: int, count: int) -> list[Life]:
        await_true(lambda: len(self.lives(worker)) >= count, lambda: self.log)
        return self.lives(worker)

    def await_log(self, pattern: str) -> re.Match[str]:
        return await_true(lambda: re.search(pattern, self.log), lambda: self.log)


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    one = Supervised(tmp_path)
    yield one
    if one.program is not None:
        one.program.stop(signal.SIGKILL)


def gone(pids: list[int]) -> bool:
    return not any(os.path.exists(f"/proc/{pid}") for pid in pids)


# Starting.


def test_none_begins_before_all_are_ready(supervised: Supervised) -> None:
    supervised.plan(1, "late")
    supervised.launch("--workers=3")
    await_true(lambda: len(supervised.noted("ready")) == 2, lambda: supervised.log)
    assert "ready:" not in supervised.log
    (supervised.directory / "late").touch()
    supervised.await_lives(2, 1)
    kinds = [line.split()[0] for line in (supervised.directory / "lives").read_text().splitlines()]
    assert kinds[:3] == ["ready"] * 3


def test_all_are_let_go_with_the_highest_id_that_one_of_them_has_given_out(
    supervised: Supervised,
) -> None:
    supervised.start("--workers=3")
    for worker in range(3):
        [life] = supervised.await_lives(worker, 1)
        assert life.ids_above == LAST_ID + 2
    assert sorted(life.pid for n in range(3) for life in supervised.lives(n)) == sorted(
        supervised.pids
    )


def test_what_one_worker_fails_at_is_said_once_and_ends_all_with_its_status(
    supervised: Supervised,
) -> None:
    supervised.plan(0, "late")
    supervised.plan(1, "fail:no room for it")
    assert supervised.launch("--workers=2").popen.wait(15) == 2
    assert supervised.log == "start failed: no room for it\n"
    assert supervised.noted("life") == []
    assert gone(supervised.pids)


def test_one_that_ends_without_a_word_before_it_is_ready_is_named(supervised: Supervised) -> None:
    supervised.plan(1, "crash")
    assert supervised.launch("--workers=2").popen.wait(15) == 1
    assert re.fullmatch(
        r"start failed: worker 1 \(process \d+\) ended with status 3 before it was ready\n",
        supervised.log,
    )


# Restarting.


def test_one_that_dies_is_started_again_and_the_others_stay(supervised: Supervised) -> None:
    supervised.start("--workers=2")
    [first] = supervised.await_lives(0, 1)
    [other] = supervised.await_lives(1, 1)
    os.kill(first.pid, signal.SIGKILL)
    _, second = supervised.await_lives(0, 2)
    assert second.ids_above == first.ids_above
    assert sorted(supervised.pids) == sorted([second.pid, other.pid])
    supervised.await_log(
        rf"ERROR .*worker 0 \(process {first.pid}\) was ended by signal 9; it is started again now"
    )


def test_one_that_dies_again_and_again_has_to_wait(supervised: Supervised) -> None:
    supervised.plan(0, "serve", "fail:still no room", "serve")
    supervised.start("--workers=1")
    os.kill(supervised.await_lives(0, 1)[0].pid, signal.SIGKILL)
    supervised.await_log(r"ended with status 2: still no room; it is started again in 1 s")
    supervised.await_lives(0, 2)


def test_one_that_stands_still_is_killed_and_started_again(supervised: Supervised) -> None:
    supervised.plan(0, "still")
    supervised.start("--workers=1", "--stall-max=1s")
    first, _ = supervised.await_lives(0, 2)
    supervised.await_log(rf"worker 0 \(process {first.pid}\) has stood still for 1\.\d s")


def test_one_that_is_stopped_is_killed_and_started_again(supervised: Supervised) -> None:
    supervised.start("--workers=2", "--stall-max=1s")
    [first] = supervised.await_lives(1, 1)
    os.kill(first.pid, signal.SIGSTOP)
    supervised.await_lives(1, 2)
    assert len(supervised.lives(0)) == 1


def test_one_that_a_debugger_has_may_stand_still(supervised: Supervised) -> None:
    need_root("trace a process that it did not start itself")
    supervised.start("--workers=2", "--stall-max=1s")
    [traced] = supervised.await_lives(0, 1)
    [other] = supervised.await_lives(1, 1)
    command = [program("strace"), "-e", "trace=none", "-p", str(traced.pid)]
    strace = Program(command, supervised.directory / "strace.log")
    try:
        strace.await_ready(lambda: "attached" in strace.output)
        os.kill(traced.pid, signal.SIGSTOP)
        for count in (2, 3):  # long enough for anybody else
            os.kill(other.pid, signal.SIGSTOP)
            other = supervised.await_lives(1, count)[-1]
        assert len(supervised.lives(0)) == 1
    finally:
        strace.stop(signal.SIGKILL)
    supervised.await_lives(0, 2)


def test_with_a_stall_max_of_0_nobody_is_killed_for_standing_still(supervised: Supervised) -> None:
    supervised.plan(0, "still")
    supervised.plan(1, "still")
    supervised.start("--workers=2", "--stall-max=0")
    [second] = supervised.await_lives(1, 1)
    # Whatever dies is seen, so the supervisor had its eye on the other one as well.
    os.kill(second.pid, signal.SIGKILL)
    supervised.await_lives(1, 2)
    assert len(supervised.lives(0)) == 1
    assert "stood still" not in supervised.log


# Stopping.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_in_order(supervised: Supervised, number: int) -> None:
    supervised.start("--workers=2")
    pids = supervised.pids
    assert supervised.running.stop(number) == 0
    assert gone(pids)
    assert "ERROR" not in supervised.log


def test_one_that_does_not_end_in_time_is_killed_and_that_is_no_success(
    supervised: Supervised,
) -> None:
    supervised.plan(1, "deaf")
    supervised.start("--workers=2", "--shutdown-max=0")
    assert supervised.running.stop(signal.SIGTERM) == 1
    assert "worker 1" in supervised.await_log("ERROR .* does not end; it is killed")[0]


def test_a_stop_before_all_are_ready_is_no_failure(supervised: Supervised) -> None:
    supervised.plan(0, "late")
    supervised.launch("--workers=1")
    await_true(lambda: supervised.pids, lambda: supervised.log)
    assert supervised.running.stop(signal.SIGTERM) == 0
    assert supervised.noted("life") == []


def test_a_kill_of_the_supervisor_ends_even_those_that_hear_nothing(
    supervised: Supervised,
) -> None:
    """Workers of this kind are not told by the kernel, as real ones are: the line's end tells."""
    supervised.start("--workers=2")
    pids = supervised.pids
    os.kill(supervised.running.popen.pid, signal.SIGKILL)
    supervised.running.popen.wait()
    await_true(lambda: gone(pids), "all gone")


def test_sighup_reaches_all_that_have_begun(supervised: Supervised) -> None:
    supervised.start("--workers=2")
    supervised.await_lives(0, 1)
    supervised.await_lives(1, 1)
    supervised.running.send_signal(signal.SIGHUP)
    await_true(lambda: sorted(supervised.noted("hup")) == [[0], [1]], lambda: supervised.log)


# Directories of workers that there are no more.


def test_a_directory_without_a_worker_has_one_until_it_is_empty(supervised: Supervised) -> None:
    (supervised.spool / "worker-4").mkdir(parents=True)
    supervised.plan(4, "drain")
    supervised.start("--workers=1")
    supervised.await_lives(4, 1)
    assert len(supervised.pids) == 2
    (supervised.directory / "drained").touch()
    supervised.await_log(r"INFO .*worker 4 \(process \d+\) has emptied its directory")
    await_true(lambda: len(supervised.pids) == 1, "one less")
    assert supervised.running.stop(signal.SIGTERM) == 0


def test_sockets_of_workers_that_there_are_no_more_are_forgotten_and_no_others(
    supervised: Supervised,
) -> None:
    supervised.spool.mkdir()
    for name in ("admin.worker-5.sock", "admin.worker-6.sock", "admin.worker-1.sock"):
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(supervised.spool / name))
    with socket.socket(socket.AF_UNIX) as used:
        (supervised.spool / "admin.worker-6.sock").unlink()
        used.bind(str(supervised.spool / "admin.worker-6.sock"))
        used.listen()
        supervised.start("--workers=2")
    left = {path.name for path in supervised.spool.glob("*.sock")}
    assert left == {"admin.worker-6.sock", "admin.worker-1.sock"}


# Who may have the directory.


def test_a_second_one_is_refused_at_once_and_told_who_has_it(
    supervised: Supervised, tmp_path: Path
) -> None:
    supervised.start("--workers=1")
    (tmp_path / "second").mkdir()
    second = Supervised(tmp_path / "second")
    second.spool = supervised.spool
    assert second.launch().popen.wait(15) == 2
    pid = supervised.running.popen.pid
    assert f"--spool {supervised.spool}: is in use by process {pid}" in second.log


def test_one_that_comes_after_a_kill_waits_for_the_workers_to_be_gone(
    supervised: Supervised, tmp_path: Path
) -> None:
    """They have the directory, and its port."""
    listen = f"--listen=127.0.0.1:{free_port()}"
    supervised.start("--workers=1", listen)
    [life] = supervised.await_lives(0, 1)
    os.kill(life.pid, signal.SIGSTOP)  # so that it does not see the end of the line
    os.kill(supervised.running.popen.pid, signal.SIGKILL)
    supervised.running.popen.wait()
    (tmp_path / "second").mkdir()
    second = Supervised(tmp_path / "second")
    second.spool = supervised.spool
    second.launch(listen)
    try:
        await_true(lambda: has_open(second.running.popen.pid, second.spool / "lock"), "its look")
        os.kill(life.pid, signal.SIGKILL)
        second.running.await_ready(lambda: "ready: listening" in second.log)
    finally:
        second.running.stop(signal.SIGKILL)
