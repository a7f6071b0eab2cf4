"""Sends messages through a relay and waits until the sink has what they lead to.

Draws the progress bar meanwhile.  Keeps what it sent for the accounting; judges nothing.
"""

import time
from collections.abc import Callable
from typing import Self

import gevent
from rich.console import Console

from gwrelay_bench.accounting import Sent, awaited
from gwrelay_bench.bars import progress
from gwrelay_bench.sink import Sink
from gwrelay_bench.source import Source
from gwrelay_bench.submission import Receipt, Submission

#: Seconds without a single arrival after which the rest is called missing.
PATIENCE_S = 15.0
_POLL_S = 0.05


class Carriage:
    """Context manager; the bar is there inside it.

    `check` is called all the while and raises when the relay has died.  `refused` as in
    accounting.account().
    """

    def __init__(
        self,
        relay: tuple[str, int],
        check: Callable[[], None],
        sink: Sink,
        console: Console,
        *,
        refused: frozenset[str] = frozenset(),
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.sent: list[Sent] = []
        #: Of the same, with when their final dots were sent.
        self.receipts: list[Receipt] = []
        #: What the relay would not take, in words.
        self.failures: list[str] = []
        self._relay = relay
        self._check = check
        self._sink = sink
        self._refused = refused
        self._patience_s = patience_s
        self._progress = progress(console)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def carry(self, name: str, submissions: list[Submission], sessions: int) -> float:
        """Send all, wait for all; returns the seconds from the first MAIL to the last arrival.

        0.0 when something is missing: then there is no such time.  Gives up after `patience_s`
        without an arrival.  What is missing then, accounting will name; what the relay never
        answered becomes a failure here.
        """
        outstanding = awaited(submissions, self._refused)
        bar = self._progress.add_task(name, total=len(outstanding))
        source = Source(*self._relay, sessions=sessions)
        answered: list[Receipt] = []
        seen = len(self._sink.arrivals)
        started = time.time()
        heard_at = time.monotonic()
        sending = gevent.spawn(source.run, submissions, answered.append)
        while outstanding or not sending.ready():
            gevent.sleep(_POLL_S)
            self._check()
            arrivals = self._sink.arrivals[seen:]
            if arrivals:
                seen += len(arrivals)
                heard_at = time.monotonic()
                outstanding -= {(a.reverse_path, r) for a in arrivals for r in a.recipients}
            elif time.monotonic() - heard_at > self._patience_s:
                break
            total = self._progress.tasks[bar].total or 0
            self._progress.update(bar, completed=total - len(outstanding), refresh=True)
        sending.kill()
        sending.get()  # a bug in the source is raised here, not taken for a silent relay
        self._note(submissions, answered)
        complete = self._sink.arrivals and not outstanding
        return self._sink.arrivals[-1].at - started if complete else 0.0

    def _note(self, submissions: list[Submission], receipts: list[Receipt]) -> None:
        """Keep what was accepted, and put the rest in words."""
        answered = {id(receipt.submission) for receipt in receipts}
        for receipt in receipts:
            submission = receipt.submission
            if receipt.accepted:
                self.sent.append(Sent(submission, receipt.answered_at))
                self.receipts.append(receipt)
            else:
                self.failures.append(f"<{submission.reverse_path}>: {receipt.code} {receipt.text}")
            self.failures += [f"<{recipient}>: {reply}" for recipient, reply in receipt.refused]
        self.failures += [
            f"<{submission.reverse_path}>: the relay never answered"
            for submission in submissions
            if id(submission) not in answered
        ]
