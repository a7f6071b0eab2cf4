"""A worker's place in its gateway: what it was handed, what it tells its supervisor, and its end
with the supervisor's.

`serve --worker K` without a supervisor is a whole gateway in one process, for debuggers, profilers
and benches: it opens ports and locks the spool's directory by itself.
"""

import ctypes
import faulthandler
import os
import signal
import socket
import threading
import time
from collections.abc import Callable

from gwrelay import spooldirectory
from gwrelay.config import Settings
from gwrelay.processes.board import Board, Column
from gwrelay.processes.filelimit import raise_file_limit
from gwrelay.processes.handover import Handover, Line
from gwrelay.processes.ports import open_ports
from gwrelay.relay.node import NodeSites
from gwrelay.relay.nodemarks import NodeMarks

#: <linux/prctl.h>
_PR_SET_PDEATHSIG = 1
#: Seconds between two beats, at most; several of them go into the time that a worker may stand
#: still.
_BEAT_EVERY_S, _BEATS = 0.5, 4
#: Of a worker that ended because its supervisor is gone.
_ORPHAN_STATUS = 1


class Shared:
    """What all workers know of sites and of bad hosts."""

    def __init__(self, handover: Handover) -> None:
        self._handover = handover
        self.sites = NodeSites(handover.sites, handover.columns, handover.column)

    def marks(self, remembered_s: float, clock: Callable[[], float]) -> NodeMarks:
        """`remembered_s` is how long after its end a mark still says something."""
        about = self._handover
        return NodeMarks(about.marks, about.columns, about.column, remembered_s, clock)


class Place:
    """Where a worker is put.  `line` is None for one that has no supervisor."""

    def __init__(
        self,
        number: int,
        ports: list[socket.socket],
        column: Column,
        *,
        line: Line | None = None,
        drains: bool = False,
        tag: str = "",
        shared: Shared | None = None,
        certificate: int = -1,
        beat_every_s: float = _BEAT_EVERY_S,
    ) -> None:
        """`tag` tells its lines in the log from those of others, with which it has `shared`."""
        self.number = number
        self.tag = tag
        self.shared = shared
        #: As in Handover.
        self.certificate = certificate
        self.ports = ports
        self.column = column
        self.drains = drains
        #: Set when it may begin.
        self.go = threading.Event()
        #: No message may have an id that is not above this one.
        self.ids_above = 0
        self._line = line
        self._beat_every_s = beat_every_s

    @property
    def is_alone(self) -> bool:
        return self._line is None

    @property
    def gateway_pid(self) -> int:
        """Of the process that operators know as the gateway."""
        return os.getpid() if self.is_alone else os.getppid()

    def say_ready(self, last_id: int) -> None:
        """All that could fail has not; whether to begin is said by `go`.  No id was given out
        above `last_id`."""
        self.column.beat(time.monotonic())
        if self._line is None:
            self.go.set()
        else:
            self._line.say(ready=last_id)

    def say_begun(self) -> None:
        if self._line is not None:
            self._line.say(begun=True)

    def say_failed(self, text: str, status: int) -> bool:
        """Whether there is somebody who tells the operator."""
        if self._line is not None:
            self._line.say(failed=text, status=status)
        return self._line is not None

    def say_drained(self) -> None:
        if self._line is not None:
            self._line.say(drained=True)

    def beat(self, stop: threading.Event) -> None:
        """Show that the loop turns, until `stop`."""
        while not stop.wait(self._beat_every_s):
            self.column.beat(time.monotonic())

    def listen(self) -> None:
        """Hear what the supervisor says, and end this process when it has gone: the signal that
        the kernel sends then does not come where somebody changes the user."""
        if self._line is None:
            return
        while (heard := self._line.hear()) is not None:
            for said in heard:
                self.ids_above = said["go"]
                self.go.set()
        os._exit(_ORPHAN_STATUS)


def take_place(number: int, handover: Handover, settings: Settings) -> Place:
    """The one that the supervisor has made.  From now on this process ends when that one does."""
    _die_with_parent()
    # The supervisor asks by SIGABRT where a worker is that stands still.
    faulthandler.enable()
    beat_every_s = _BEAT_EVERY_S
    if settings.stall_max_s:
        beat_every_s = min(beat_every_s, settings.stall_max_s / _BEATS)
    return Place(
        number,
        [socket.socket(fileno=port) for port in handover.ports],
        Board(handover.board, handover.columns).column(handover.column),
        line=Line(socket.socket(fileno=handover.line)),
        drains=handover.drains,
        tag=f"[{number}]" if handover.columns > 1 else "",
        shared=Shared(handover) if handover.sites >= 0 else None,
        certificate=handover.certificate,
        beat_every_s=beat_every_s,
    )


def alone(number: int, settings: Settings) -> Place:
    """A place of one's own.  Raises ConfigError."""
    raise_file_limit(settings)
    held = spooldirectory.lock(spooldirectory.own_directory(settings.spool))
    return Place(number, open_ports(settings.endpoints, held.wait_s), Board(-1, 1).column(0))


def _die_with_parent() -> None:
    """Ends with SIGKILL, whatever it was doing: what was answered 250 is durable, and whoever
    starts the gateway again should not have to wait."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
