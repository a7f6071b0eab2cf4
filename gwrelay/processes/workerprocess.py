"""One life of one worker, as its supervisor sees it: from its start to its exit status.

Loads no gevent.
"""

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from gwrelay.errors import StartFailed
from gwrelay.processes.board import Column
from gwrelay.processes.handover import Handover, Line
from gwrelay.processes.watching import Stillness

#: Makes the command line that starts worker `number` with what is handed to it.
Command = Callable[[int, Handover], Sequence[str]]

#: Seconds for one that stands still to say where, before it is killed.
_LAST_WORDS_S = 1.0


class WorkerProcess:
    """Starts it.  `inherited`: descriptors to keep open in it, besides those of `handover`, which
    lacks the line alone.  Raises OSError."""

    def __init__(
        self,
        number: int,
        command: Command,
        handover: Handover,
        column: Column,
        inherited: Sequence[int],
    ) -> None:
        self.name = f"worker {number}"
        #: It may be let go; it was; it has begun; nothing is left in its directory.
        self.is_ready = self.is_let_go = self.has_begun = self.is_drained = False
        self.may_say_more = True
        #: No id that it gave out before was above this one.
        self.last_id = 0
        #: Why it cannot start, in its own words.
        self.failure: StartFailed | None = None
        self._column = column
        self._stillness = Stillness()
        self._asked_at = 0.0
        column.clear()
        ours, theirs = socket.socketpair()
        self._line = Line(ours)
        with theirs:
            given = msgspec.structs.replace(handover, line=theirs.fileno())
            try:
                self._process = subprocess.Popen(
                    command(number, given), pass_fds=[*inherited, *given.descriptors]
                )
            except OSError:
                self._line.close()
                raise
        self._started_at = time.monotonic()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ran_s(self) -> float:
        return time.monotonic() - self._started_at

    def __str__(self) -> str:
        return f"{self.name} (process {self.pid})"

    def fileno(self) -> int:
        """Of the line, for select()."""
        return self._line.fileno()

    def hear(self) -> None:
        """Take in what it says next, which is waited for."""
        heard = self._line.hear()
        self.may_say_more = heard is not None
        for said in heard or ():
            if "ready" in said:
                self.is_ready, self.last_id = True, said["ready"]
            elif "begun" in said:
                self.has_begun = True
            elif "failed" in said:
                self.failure = StartFailed(said["status"], said["failed"])
            else:
                self.is_drained = said["drained"]

    def let_go(self, ids_above: int) -> None:
        self._line.say(go=ids_above)
        self.is_let_go = True

    def send_signal(self, number: int) -> None:
        self._process.send_signal(number)

    def poll(self) -> int | None:
        """The exit status once it has ended, and all that it said is heard; -N for signal N."""
        status = self._process.poll()
        if status is not None:
            while self.may_say_more:
                self.hear()
            self._line.close()
            self._column.clear()
        return status

    def wait(self, timeout_s: float) -> None:
        """Until it ends; it is killed after that time."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    # -- when it stands still ---------------------------------------------------------------

    def still_s(self, now: float, at_most_s: float) -> float:
        """As Stillness.look()."""
        return self._stillness.look(self._column.beat_at, now, at_most_s)

    @property
    def is_traced(self) -> bool:
        """Whether a debugger has it."""
        try:
            about = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return False
        return "TracerPid:\t0\n" not in about

    def end_by_force(self, now: float) -> bool:
        """Have it say where it is (see worker.take_place), and a moment later kill it.  Whether it
        was asked only now; to be called again until it has ended."""
        if not self._asked_at:
            self._asked_at = now
            self.send_signal(signal.SIGABRT)
            return True
        if now > self._asked_at + _LAST_WORDS_S:
            self.send_signal(signal.SIGKILL)
        return False
