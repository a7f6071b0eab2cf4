"""What a bench ran on, and what a process used: read from /proc, Linux only."""

import ctypes
import os
import resource
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_NOTHING = "0 kB"
#: <linux/prctl.h>
_PR_SET_PDEATHSIG = 1
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
#: Filesystems in memory: a sync does nothing there.
_UNSYNCED = frozenset({"tmpfs", "ramfs"})
ESTABLISHED, CONNECTING = "established", "connecting"
#: As <net/tcp_states.h> numbers them.
_TCP_STATES = {"01": ESTABLISHED, "02": CONNECTING}


class Filesystem(NamedTuple):
    """The mount that holds a path."""

    kind: str
    device: str

    @property
    def syncs(self) -> bool:
        """Whether a sync costs what it costs on a disk."""
        return self.kind not in _UNSYNCED

    def __str__(self) -> str:
        return f"{self.kind} on {self.device}"


class Usage(NamedTuple):
    """What processes have in RAM now, had at most each, and the CPU time they have used."""

    resident_bytes: int
    peak_bytes: int
    cpu_s: float


def filesystem(path: Path) -> Filesystem:
    """Where `path`, which exists, is stored."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        about, _, source = line.partition(" - ")
        if about.split()[2] == wanted:
            return Filesystem(*source.split()[:2])
    return Filesystem("unknown", wanted)


def usage(pid: int) -> Usage:
    """Of a process and of all that it has started, the ended among them for their CPU time.
    OSError when there is no such process."""
    used = _usage(pid)
    for child in _children(pid):
        try:
            of_child = usage(child)
        except OSError:
            continue  # ended while we looked
        used = Usage(*map(sum, zip(used, of_child, strict=True)))
    return used


def footprint(pid: int) -> tuple[int, int]:
    """Bytes in RAM, and processes, of all that usage() is about: the most that each has had of its
    own, and once the most that one shares with others.  (0, 0) when there is none."""
    own = shared = count = 0
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        try:
            fields = _status(one)
            waiting += _children(one)
        except OSError:
            continue  # ended while we looked
        if "VmHWM" not in fields:
            continue  # likewise, though nobody has asked yet how
        files = _kib(fields["RssFile"]) + _kib(fields["RssShmem"])
        own += _kib(fields["VmHWM"]) - files
        shared = max(shared, files)
        count += 1
    return own + shared, count


def _status(pid: int) -> dict[str, str]:
    status = Path(f"/proc/{pid}/status").read_text()
    return dict(line.split(":", 1) for line in status.splitlines())


def _usage(pid: int) -> Usage:
    fields = _status(pid)
    # Behind the name, which may hold anything, in parentheses: user and system time, and those of
    # processes it started and waited for.
    times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]
    return Usage(
        # Neither is said of one that has ended, until somebody has asked how.
        _kib(fields.get("VmRSS", _NOTHING)),
        _kib(fields.get("VmHWM", _NOTHING)),
        sum(map(int, times)) / _TICKS_PER_S,
    )


def wakes(pid: int) -> int:
    """How often its main thread has slept and been woken since it started."""
    return int(_status(pid)["voluntary_ctxt_switches"])


def _children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        yield from map(int, (task / "children").read_text().split())


def connections(port: int) -> Counter[str]:
    """How many connections to `port`, of whatever address and of any process in this network
    namespace, are in each state: ESTABLISHED or CONNECTING.  IPv4, the clients' side."""
    found: Counter[str] = Counter()
    # A row of /proc/net/tcp: number, local address:port, remote address:port, state, all in hex.
    for row in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, _, remote, state = row.split(None, 4)[:4]
        if state in _TCP_STATES and int(remote.partition(":")[2], 16) == port:
            found[_TCP_STATES[state]] += 1
    return found


def raise_file_limit() -> None:
    """Let this process, and those it starts, open as many files as it may at all."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def die_with_parent() -> None:
    """Have this process killed once the one that started it is gone, however that went."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def let_others_run() -> None:
    """Have what wakes this process not take the core from whoever has it: source and sink stand for
    other machines, and share the cores of what they measure.  One that preempts a relay at each
    reply, and then waits for the next, costs both of them a half more."""
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def tree_bytes(directory: Path) -> int:
    """What the files below `directory` take of the disk."""
    total = 0
    for place, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.stat(os.path.join(place, name)).st_blocks * 512
            except FileNotFoundError:
                continue  # removed while we looked
    return total


def _kib(text: str) -> int:
    """`"  123 kB"`, in bytes."""
    return int(text.split()[0]) * 1024
