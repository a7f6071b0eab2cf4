"""A client with a list of destinations and a pace, as a process of its own.

`Sender(directory, relay, errand)` starts one; once it has ended, `report()` is what it was told.
As a program: `python -m gwrelay_bench.sender ADDR PORT ERRAND`, the errand as a JSON object;
prints the report as another.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from json import dumps, loads
from pathlib import Path
from typing import NamedTuple

import gevent
from gevent import subprocess

from gwrelay_bench.forked import Popen
from gwrelay_bench.source import Source, text_content
from gwrelay_bench.submission import Submission


class Errand(NamedTuple):
    """`messages` of one reverse-path, each to a recipient of its own, over `domains` in turn."""

    #: Begins the recipients' local parts: no two errands have the same.
    name: str
    reverse_path: str
    domains: tuple[str, ...]
    messages: int
    size_bytes: int
    sessions: int
    #: Seconds from one message to the next; 0: each session sends when it was answered.
    interval_s: float = 0.0


class Told(NamedTuple):
    """The answer to one message.  `refusal` is "" for a 250."""

    recipient: str
    #: Unix seconds, when the answer to the final dot was read.
    answered_at: float
    refusal: str


class Report(NamedTuple):
    """What the relay said.  `began_at` is Unix seconds, before the first connection."""

    began_at: float
    told: tuple[Told, ...]

    @property
    def accepted(self) -> dict[str, float]:
        """Recipient → when its message was answered 250."""
        return {one.recipient: one.answered_at for one in self.told if not one.refusal}

    @property
    def ended_at(self) -> float:
        """When the last answer was read."""
        return max((one.answered_at for one in self.told), default=self.began_at)

    @property
    def accepted_per_s(self) -> float:
        took_s = self.ended_at - self.began_at
        return len(self.accepted) / took_s if took_s else 0.0


#: Of a client that there was not.
NOTHING = Report(0.0, ())


class SenderDied(Exception):
    """It ended before it had sent everything; its own words are on standard error."""


class Sender:
    """Runs `errand` until it is done or killed; its report is a file in `directory` meanwhile."""

    def __init__(self, directory: Path, relay: tuple[str, int], errand: Errand) -> None:
        self._path = directory / f"report-of-{errand.name}"
        words = [relay[0], str(relay[1]), dumps(errand._asdict())]
        with self._path.open("wb") as report:
            self._process = Popen(
                [sys.executable, "-m", "gwrelay_bench.sender", *words],
                stdin=subprocess.DEVNULL,
                stdout=report,
                # Ctrl-C is for the bench, which ends this one: it need not say that it was.
                start_new_session=True,
            )

    @property
    def is_done(self) -> bool:
        """Raises SenderDied."""
        status = self._process.poll()
        if status:
            raise SenderDied(f"a client of the bench ended with status {status}")
        return status is not None

    def report(self) -> Report:
        """Only once it is done."""
        found = loads(self._path.read_text())
        return Report(found["began_at"], tuple(Told(*one) for one in found["told"]))

    def kill(self) -> None:
        """Nothing to do when it has ended."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class Paced:
    """The submissions, `interval_s` apart, and none later because another was answered late.

    No generator: several sessions wait in it for their turns.
    """

    def __init__(self, submissions: Iterable[Submission], interval_s: float) -> None:
        self._submissions = iter(submissions)
        self._interval_s = interval_s
        self._next_at = time.monotonic()

    def __iter__(self) -> Iterator[Submission]:
        return self

    def __next__(self) -> Submission:
        submission = next(self._submissions)
        turn_at = self._next_at
        self._next_at += self._interval_s
        gevent.sleep(max(0.0, turn_at - time.monotonic()))
        return submission


def submissions(errand: Errand) -> Iterator[Submission]:
    """They differ in nothing but the recipient, by which an arrival is known again."""
    content = text_content(errand.size_bytes)
    for number in range(errand.messages):
        domain = errand.domains[number % len(errand.domains)]
        yield Submission(errand.reverse_path, (f"{errand.name}{number}@{domain}",), content)


def _run(relay: tuple[str, int], errand: Errand) -> Report:
    source = Source(*relay, sessions=errand.sessions)
    waiting = submissions(errand)
    began_at = time.time()
    receipts = source.run(Paced(waiting, errand.interval_s) if errand.interval_s else waiting)
    return Report(
        began_at,
        tuple(
            Told(
                receipt.submission.recipients[0],
                receipt.answered_at,
                "" if receipt.accepted else f"{receipt.code} {receipt.text}",
            )
            for receipt in receipts
        ),
    )


if __name__ == "__main__":
    address, port, errand = sys.argv[1:]
    print(dumps(_run((address, int(port)), Errand(**loads(errand)))._asdict()))
