"""`gwrelay bench cost`: what a message costs, counted rather than timed where that can be.

The way of a message in two parts, and as a whole, each in a process of its own; who sends and who
takes is this one.  CPU time is the median of --rounds.  What is counted (system calls, switches
between greenlets and, with --instructions, those of the processor in user space) is counted in a
run and in another of twice the messages: the difference is theirs, and no start is in it.

    accept    a client's bytes to its 250: listener, session, queue, spool with its syncs
    deliver   due to done: manager, relayer, transaction over a kept session, settlement
    through   both in one process
    ... bare  the same sockets without any of it: the baseline
    ... sendmail   stock smtplib's, which delivers too
"""

import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from json import dumps, loads
from pathlib import Path
from typing import Any

import click
from gevent import subprocess

from gwrelay_bench.costside import ACCEPTING, HOST, RECIPIENT, Job
from gwrelay_bench.figures import medians
from gwrelay_bench.forked import Popen
from gwrelay_bench.measure import Result
from gwrelay_bench.scenario import Bench, BenchFailed, as_module, scenario
from gwrelay_bench.sink import Sink
from gwrelay_bench.source import Source, load, text_content

#: What is compared with what; "": there is nothing like it.
BASELINES = {
    "accept": "accept bare",
    "deliver": "deliver bare",
    "deliver sendmail": "deliver bare",
    "through": "",
}
HAS_STRACE = shutil.which("strace") is not None
_COUNT_OF_CALLS = re.compile(r"\s*(\d+)\s+(\w+)")
_INSTRUCTIONS = re.compile(r"^(?:summary|totals): (\d+)", re.MULTILINE)


@click.command("cost")
@click.option("--messages", type=click.IntRange(1), default=4000, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--sessions", type=click.IntRange(1), default=1, show_default=True, help="At once.")
@click.option("--size", type=click.IntRange(100), default=4096, show_default=True, help="Bytes.")
@click.option(
    "--counted", type=click.IntRange(1), default=200, show_default=True,
    help="Messages, where something is counted.",
)  # fmt: skip
@click.option("--instructions", is_flag=True, help="Count them with valgrind: takes minutes.")
@click.option(
    "--side", "sides", multiple=True, type=click.Choice(list(BASELINES)), help="Only this one."
)
@scenario
def command(
    bench: Bench,
    messages: int,
    rounds: int,
    sessions: int,
    size: int,
    counted: int,
    instructions: bool,
    sides: Sequence[str],
) -> None:
    """CPU time, system calls and instructions of one message, by parts of its way."""
    wanted = [side for side in BASELINES if not sides or side in sides]
    everyone = [*dict.fromkeys(one for side in wanted for one in (BASELINES[side] or side, side))]
    content = text_content(size).decode()
    runs = rounds + 2 * (1 + instructions + HAS_STRACE)
    with bench.steps("cost", len(everyone) * runs) as advance, _sink() as port:
        course = Course(bench.directory, content, sessions, port, advance)
        timed: dict[str, list[dict[str, float]]] = {side: [] for side in everyone}
        for _ in range(rounds):
            for side in everyone:
                timed[side].append(course.time(side, messages))
        found = {
            side: {**medians(timed[side]), **course.count(side, counted, instructions)}
            for side in everyone
        }
    for side in wanted:
        settings = {
            "side": side,
            "sessions": sessions,
            "messages": messages,
            "counted": counted,
            "message_bytes": len(content),
            "rounds": rounds,
        }
        baseline = found.get(BASELINES[side], {})
        ratio = found[side]["cpu_us"] / baseline["cpu_us"] if baseline else None
        bench.tell(Result("cost", settings, found[side], baseline, ratio))


class Course:
    """Runs one side after the other, each on a directory of its own."""

    def __init__(
        self,
        directory: Path,
        content: str,
        sessions: int,
        port: int,
        advance: Callable[[int], None],
    ) -> None:
        self._directory = directory
        self._content = content
        self._sessions = sessions
        self._port = port
        self._advance = advance

    def time(self, side: str, messages: int) -> dict[str, float]:
        """Microseconds of CPU for each message: of ours, and of the system for us."""
        took = self._run(side, messages, messages)
        user_us, system_us = (took[name] / messages * 1e6 for name in ("user_s", "system_s"))
        return {"cpu_us": user_us + system_us, "user_us": user_us, "system_us": system_us}

    def count(self, side: str, messages: int, instructions: bool) -> dict[str, Any]:
        """For each message."""
        counts: dict[str, Any] = self._difference(side, messages, self._switches)
        if HAS_STRACE:
            calls = self._difference(side, messages, self._calls)
            counts["system_calls"] = round(sum(calls.values()), 2)
            counts["calls"] = {name: n for name, n in calls.items() if n >= 0.01}
        if instructions:
            counts |= self._difference(side, messages, self._instructions)
        return counts

    def _difference(
        self, side: str, messages: int, count: Callable[[str, int, int], dict[str, float]]
    ) -> dict[str, float]:
        few = count(side, messages, 2 * messages)
        many = count(side, 2 * messages, 2 * messages)
        differences = {name: (many[name] - few.get(name, 0)) / messages for name in many}
        return {n: round(d, 2) for n, d in sorted(differences.items(), key=lambda one: -one[1])}

    def _switches(self, side: str, messages: int, present: int) -> dict[str, float]:
        return {"switches": self._run(side, messages, present, counts_switches=True)["switches"]}

    def _calls(self, side: str, messages: int, present: int) -> dict[str, float]:
        told = self._directory / "strace"
        self._run(side, messages, present, ("strace", "-f", "-c", "-U", "calls,name", "-o", told))
        found = map(_COUNT_OF_CALLS.match, told.read_text().splitlines())
        return {line[2]: int(line[1]) for line in found if line and line[2] != "total"}

    def _instructions(self, side: str, messages: int, present: int) -> dict[str, float]:
        told = self._directory / "callgrind"
        out = f"--callgrind-out-file={told}"
        self._run(side, messages, present, ("valgrind", "-q", "--tool=callgrind", out))
        counted = _INSTRUCTIONS.search(told.read_text())
        if counted is None:
            raise BenchFailed("valgrind has counted nothing")
        return {"instructions": int(counted[1])}

    def _run(
        self,
        side: str,
        messages: int,
        present: int,
        watched_by: Sequence[str | Path] = (),
        *,
        counts_switches: bool = False,
    ) -> dict[str, float]:
        """What the side says of itself in the end."""
        directory = tempfile.mkdtemp(dir=self._directory)
        job = Job(
            side,
            messages,
            present,
            self._sessions,
            self._content,
            directory,
            self._port,
            counts_switches,
        )
        module = (sys.executable, "-m", "gwrelay_bench.costside")
        process = Popen(
            [*watched_by, *module, dumps(job._asdict())], stdout=subprocess.PIPE, text=True
        )
        try:
            if side in ACCEPTING:
                self._send(int(process.stdout.readline()), messages)
            told: dict[str, float] = loads(process.stdout.readline() or "{}")
            if process.wait() or not told:
                raise BenchFailed(f"{side} ended with {process.returncode}")
        finally:
            process.kill()
            shutil.rmtree(directory)
            self._advance(1)
        return told

    def _send(self, port: int, messages: int) -> None:
        domain = RECIPIENT.rpartition("@")[2]
        source = Source(HOST, port, sessions=self._sessions)
        for receipt in source.run(load(messages, len(self._content), 1, domain)):
            if not receipt.accepted:
                raise BenchFailed(f"not accepted: {receipt.code} {receipt.text}")


@contextmanager
def _sink() -> Iterator[int]:
    sink = Sink(digest=False)
    try:
        yield sink.listen(HOST)
    finally:
        sink.close()


if __name__ == "__main__":
    as_module(__spec__.name)
