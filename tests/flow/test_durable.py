"""250 only after durable: what the kernel was asked between the 354 and the 250, by strace."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from spool import Spool
from spool.segment import FIRST
from support.clients import submit
from support.gateway import Gateway, StartGateway, without_received
from support.processes import Program, await_true, need_root, program

_LINE = re.compile(r"(\d+) +(.*)")
_UNFINISHED = re.compile(r"(\w+\(.*) <unfinished \.\.\.>")
_RESUMED = re.compile(r"<\.\.\. \w+ resumed>(.*)")
#: With -y strace says beside each descriptor what it is, as /proc/PID/fd does.
_CALL = re.compile(r"(\w+)\(\d+<([^>]*)>(.*)\) += (-?\d+)")
#: The last argument, but for pwritev2, which has flags behind it.
_OFFSET = re.compile(r", (\d+)(?:, 0)?$")
_WRITES = ("pwritev", "pwritev2", "pwrite64")
_SYNCS = ("fdatasync", "fsync")
#: A sync that the kernel does by itself (gwrelay/linuxaio.py): its begin, and its end.
_BEGIN = re.compile(
    r"io_submit\(.*aio_data=(\w+), aio_lio_opcode=IOCB_CMD_FDSYNC.*<(.*)>}]\) += 1$"
)
_END = re.compile(r"{data=(\w+), obj=\w+, res=(-?\d+),")
_ASKING = ("io_submit", "io_getevents")
_SENDS = ("sendto", "sendmsg", "write", "writev")


class Call(NamedTuple):
    """A system call; `began` and `ended` are lines of the trace, so they tell the order."""

    name: str
    file: str
    arguments: str
    result: int
    began: int
    ended: int

    @property
    def offset(self) -> int:
        return int(_OFFSET.search(self.arguments)[1])


def calls(trace: str) -> Iterator[Call]:
    """Every whole call, those that another thread interrupted in the trace put together."""
    begun: dict[str, tuple[int, str]] = {}
    syncing: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(trace.splitlines()):
        thread, text = _LINE.fullmatch(line).groups()
        began = number
        if unfinished := _UNFINISHED.fullmatch(text):
            begun[thread] = number, unfinished[1]
            continue
        if (resumed := _RESUMED.fullmatch(text)) and thread in begun:
            began, start = begun.pop(thread)
            text = start + resumed[1]
        if begin := _BEGIN.match(text):
            syncing[begin[1]] = began, begin[2]
        elif text.startswith("io_getevents("):
            for token, result in _END.findall(text):
                if token in syncing:  # it may have begun before the trace
                    began, file = syncing.pop(token)
                    yield Call("fdatasync", file, "", int(result), began, number)
        elif call := _CALL.match(text):
            name, file, arguments, result = call.groups()
            yield Call(name, file, arguments, int(result), began, number)


@pytest.fixture
def traced(start_gateway: StartGateway, tmp_path: Path) -> Iterator[tuple[Gateway, Path]]:
    """A gateway whose next hop is down, and the file its system calls are written to."""
    need_root("trace a process that it did not start itself")
    gateway = start_gateway("--smarthost", "127.0.0.1:1", "--resident-bodies", "0")
    wanted = ",".join((*_WRITES, *_SYNCS, *_ASKING, *_SENDS))
    command = [program("strace"), "-f", "-y", "-s", "64", "-e", f"trace={wanted}"]
    trace = tmp_path / "trace"
    strace = Program(
        [*command, "-o", str(trace), "-p", str(gateway.worker_pid)], tmp_path / "strace.log"
    )
    try:
        strace.await_ready(lambda: "attached" in strace.output)
        yield gateway, trace
    finally:
        strace.stop()


def between_354_and_250(trace: Path) -> list[Call]:
    """All that lay between the two replies, the second of them waited for."""

    def replies(seen: list[Call], code: str) -> list[Call]:
        return [c for c in seen if c.name in _SENDS and f'"{code} ' in c.arguments]

    def both() -> tuple[list[Call], Call, Call] | None:
        # The last line may be half written.
        seen = list(calls(trace.read_text("utf-8", "replace").rpartition("\n")[0]))
        for go_ahead in replies(seen, "354"):
            for accepted in replies(seen, "250"):
                if accepted.began > go_ahead.ended:
                    return seen, go_ahead, accepted
        return None

    seen, go_ahead, accepted = await_true(both, lambda: trace.read_text()[-3000:], 15)
    return [c for c in seen if c.began > go_ahead.ended and c.ended < accepted.began]


class Range(NamedTuple):
    """Bytes written to a segment before a successful sync of it."""

    segment: Path
    offset: int
    content: bytes


def synced(found: list[Call]) -> list[Range]:
    """What stands in the segments where a write went that a successful sync followed."""
    ranges = []
    for write in found:
        if write.name not in _WRITES or not write.file.endswith(".segment"):
            continue
        if any(
            c.name in _SYNCS and c.file == write.file and c.began > write.ended and c.result == 0
            for c in found
        ):
            with open(write.file, "rb") as segment:
                content = os.pread(segment.fileno(), write.result, write.offset)
            ranges.append(Range(Path(write.file), write.offset, content))
    return ranges


def contents_after_power_loss(ranges: list[Range], directory: Path) -> list[bytes]:
    """The bodies in a spool of which only `ranges` have reached the disk."""
    directory.mkdir(mode=0o700)
    for segment, offset, content in ranges:
        copy = directory / segment.name
        if not copy.exists():
            # A segment has its header, durable, before it has its name.
            copy.write_bytes(segment.read_bytes()[:FIRST])
        with copy.open("r+b") as file:
            os.pwrite(file.fileno(), content, offset)
    left = Spool(directory)
    try:
        return [b"".join(left.body(key)) for key, _ in left.items()]
    finally:
        left.close()


def test_between_354_and_250_the_segment_that_holds_the_record_is_synced(
    traced: tuple[Gateway, Path], tmp_path: Path
) -> None:
    gateway, trace = traced
    lines = [f"line {n} of what must be durable".encode() for n in range(40)]
    content = b"Subject: proof\r\n\r\n" + b"\r\n".join(lines) + b"\r\n"
    submit(gateway.port, "me@here.example", ["you@there.example"], content)
    ranges = synced(between_354_and_250(trace))
    assert any(content in one.content for one in ranges)
    [left] = contents_after_power_loss(ranges, tmp_path / "after")
    assert without_received(left) == content


def test_between_354_and_250_every_piece_of_a_large_message_is_synced(
    traced: tuple[Gateway, Path], tmp_path: Path
) -> None:
    gateway, trace = traced
    lines = [b"%06d " % n + b"x" * 70 for n in range(60_000)]
    content = b"Subject: proof\r\n\r\n" + b"\r\n".join(lines) + b"\r\n"
    submit(gateway.port, "me@here.example", ["you@there.example"], content)
    ranges = synced(between_354_and_250(trace))
    [left] = contents_after_power_loss(ranges, tmp_path / "after")
    assert without_received(left) == content, "not all of it was durable when it was answered"
