"""The process behind `gwrelay serve`: opens and locks what there is once, and keeps workers at
work.  Touches no mail, and loads no gevent.

It executes each worker, rather than forking: what is patched starts from nothing.  They stay in
its process group, and the kernel ends them when it ends, whatever ended it (see worker.py).  None
of them begins before all are ready to, so that a start which fails has done nothing.
"""

import contextlib
import importlib
import logging
import math
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from gwrelay import spooldirectory
from gwrelay.admin.control import ask, is_abandoned, workers_at
from gwrelay.config import MOST_WORKERS, Settings, admin_path
from gwrelay.diagnostics import reopen_log, start_log
from gwrelay.errors import ConfigError, GatewayError, StartFailed
from gwrelay.notation import Endpoint
from gwrelay.processes.board import Board, new_board
from gwrelay.processes.cores import usable_cores
from gwrelay.processes.filelimit import raise_file_limit
from gwrelay.processes.handover import Handover, unnamed_file
from gwrelay.processes.ports import log_ready, open_ports
from gwrelay.processes.privileges import account_to_be, acting_as, become
from gwrelay.processes.watching import BackOff
from gwrelay.processes.workerprocess import Command, WorkerProcess
from gwrelay.relay.node import NodeSites, new_sites
from gwrelay.relay.nodemarks import new_marks

logger = logging.getLogger(__name__)

#: Seconds between two looks at the workers, at most; several of them go into the time that one
#: may stand still.
_LOOK_EVERY_S, _LOOKS = 1.0, 4
#: Seconds beyond --shutdown-max for workers to write down what they know, and end.
_GRACE_S = 10.0
#: Seconds for workers to end when a start has failed: they have nothing to finish.
_FAILED_START_S = 5.0


def serve(settings: Settings, config: bytes | None, command: Command) -> int:
    """Run the gateway until SIGTERM or SIGINT; the exit status.

    `config` is what the --config file holds.  Raises GatewayError when it cannot start.
    """
    account = account_to_be(settings.user)
    if account is not None:
        spooldirectory.make_directory(settings.spool, account.uid, account.gid)
    with acting_as(account):
        log = start_log(settings.log, settings.log_level)
        top = spooldirectory.own_directory(settings.spool)
        held = spooldirectory.lock(top)
    ports = open_ports(settings.endpoints, held.wait_s)
    # As root where there is a --user: the key may be root's alone.
    certificate = SharedCertificate(settings)
    with contextlib.ExitStack() as pages:
        for address in settings.metrics:
            pages.callback(_open_page(settings, address).close)
        raise_file_limit(settings)
        become(account)
        supervisor = Supervisor(
            *(settings, top, ports, config, command, held.descriptor, certificate.descriptor)
        )

        def reopen() -> None:
            reopen_log(log)
            certificate.reload()

        with Signals() as signals:
            return supervisor.run(signals, reopen)


class SharedCertificate:
    """What clients are shown, if anything, in memory that workers read.  Raises ConfigError."""

    def __init__(self, settings: Settings) -> None:
        #: As in Handover.
        self.descriptor = -1
        self._certificate: Any = None
        if settings.tls_cert:
            # Loaded where it is wanted.
            self._tools = importlib.import_module("gwrelay.certificate")
            self._certificate = self._tools.Certificate(settings)
            self.descriptor = self._tools.share(self._certificate)

    def reload(self) -> None:
        """Read the files again; workers still have to be told."""
        if self._certificate is not None:
            self._certificate.reload()
            self._tools.share_again(self.descriptor, self._certificate)


def _open_page(settings: Settings, address: Endpoint) -> Any:
    """Where metrics are told.  Raises ConfigError."""
    gateway = admin_path(settings.admin, settings.spool)

    def read() -> Iterator[tuple[int, list[dict[str, Any]] | None]]:
        for worker, path in workers_at(gateway).items():
            try:
                yield worker, ask(path, "metrics").items
            except GatewayError:
                yield worker, None

    # Loaded where it is wanted.
    page = importlib.import_module("gwrelay.admin.metricspage")
    try:
        return page.Page((address.host, address.port), read)
    except OSError as error:
        raise ConfigError(f"--metrics {address}: {error.strerror}") from error


class Signals:
    """The signals that this process gets while it is open, for select() to wait for."""

    _HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

    def __init__(self) -> None:
        self._reading, self._writing = socket.socketpair()
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> "Signals":
        for end in (self._reading, self._writing):
            end.setblocking(False)
        # Python writes the number of each signal there that has a handler, whatever that does.
        signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        for number in self._HEARD:
            self._before[number] = signal.signal(number, _heard)
        return self

    def __exit__(self, *_exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        self._reading.close()
        self._writing.close()

    def fileno(self) -> int:
        return self._reading.fileno()

    def take(self) -> set[int]:
        """Those that came since."""
        try:
            return set(self._reading.recv(4096))
        except BlockingIOError:
            return set()


def _heard(_number: int, _frame: FrameType | None) -> None:
    """Signals.take() tells of it."""


class _Post:
    """What a worker is there for, over all its lives."""

    def __init__(self, number: int, column: int, *, drains: bool) -> None:
        self.number = number
        self.column = column
        self.drains = drains
        self.back_off = BackOff()
        #: None: it does not run, and is started at `start_at` (monotonic seconds).
        self.process: WorkerProcess | None = None
        self.start_at = 0.0


class Supervisor:
    """`ports` are open, and `lock` (a descriptor) holds the spool's directory `top`;
    `certificate` as in Handover."""

    def __init__(
        self,
        settings: Settings,
        top: Path,
        ports: Sequence[socket.socket],
        config: bytes | None,
        command: Command,
        lock: int,
        certificate: int,
    ) -> None:
        self._settings = settings
        self._top = top
        self._ports = ports
        self._command = command
        # While a worker lives that should be gone, the directory stays locked.
        self._inherited = [lock]
        workers = settings.workers or min(usable_cores(), MOST_WORKERS)
        # Where there were more before, their mail is still there.
        numbers = [*range(workers), *spooldirectory.leftovers(top, workers)]
        _forget_sockets(settings, numbers)
        self._posts = [
            _Post(number, column, drains=number >= workers) for column, number in enumerate(numbers)
        ]
        descriptor = new_board(len(numbers))
        self._board = Board(descriptor, len(numbers))
        self._handover = Handover(
            board=descriptor,
            columns=len(numbers),
            sites=new_sites(len(numbers)) if len(numbers) > 1 else -1,
            marks=new_marks(len(numbers)) if len(numbers) > 1 else -1,
            ports=tuple(port.fileno() for port in ports),
            config=None if config is None else unnamed_file(config),
            certificate=certificate,
        )
        self._look_every_s = _LOOK_EVERY_S
        if settings.stall_max_s:
            self._look_every_s = min(_LOOK_EVERY_S, settings.stall_max_s / _LOOKS)
        #: All have been let go once; all have begun, and that was told.
        self._has_begun = self._has_told = False
        #: No id up to this one is given out any more.
        self._ids_above = 0
        #: When those that are still there are killed, in monotonic seconds; None: not stopping.
        self._deadline: float | None = None
        self._status = 0

    def run(self, signals: Signals, reopen: Callable[[], None]) -> int:
        """Until all workers have ended because they should; 0 if each of them did so in order.

        `reopen` is called for SIGHUP.  Raises StartFailed when one cannot start.
        """
        try:
            while self._posts:
                self._start_those_due()
                self._wait(signals)
                self._obey(signals.take(), reopen)
                self._collect()
                self._let_go()
                self._watch()
        finally:
            for process in self._processes():
                process.send_signal(signal.SIGTERM)
            for process in self._processes():
                process.wait(_FAILED_START_S)
        return self._status

    def _processes(self) -> list[WorkerProcess]:
        return [post.process for post in self._posts if post.process is not None]

    # -- starting --------------------------------------------------------------------------

    def _start_those_due(self) -> None:
        now = time.monotonic()
        for post in self._posts:
            if post.process is None and now >= post.start_at:
                try:
                    post.process = self._started(post)
                except OSError as error:
                    if not self._has_begun:
                        raise StartFailed(1, f"worker {post.number}: {error}") from error
                    self._start_later(post, f"worker {post.number} cannot be started: {error}", 0.0)

    def _started(self, post: _Post) -> WorkerProcess:
        return WorkerProcess(
            post.number,
            self._command,
            msgspec.structs.replace(self._handover, column=post.column, drains=post.drains),
            self._board.column(post.column),
            self._inherited,
        )

    def _start_later(self, post: _Post, what: str, ran_s: float) -> None:
        delay_s = post.back_off.next_delay_s(ran_s)
        post.start_at = time.monotonic() + delay_s
        logger.error("%s; it is started again %s", what, f"in {delay_s:g} s" if delay_s else "now")

    def _let_go(self) -> None:
        """Those that are ready; at first, all of them or none."""
        processes = self._processes()
        if not self._has_begun:
            if self._deadline is not None or not all(process.is_ready for process in processes):
                return
            self._has_begun = True
            self._ids_above = max(process.last_id for process in processes)
            spooldirectory.close_to_others(self._top)
        for process in processes:
            if process.is_ready and not process.is_let_go:
                process.let_go(self._ids_above)
        if not self._has_told and all(process.has_begun for process in processes):
            self._has_told = True
            log_ready(self._ports)

    # -- what happens ----------------------------------------------------------------------

    def _wait(self, signals: Signals) -> None:
        """Until something was said, or it is time for something."""
        now = time.monotonic()
        times = [post.start_at for post in self._posts if post.process is None]
        if self._deadline is not None:
            times.append(self._deadline)
        timeout_s = min([self._look_every_s, *(max(0.0, at - now) for at in times)])
        speaking = [process for process in self._processes() if process.may_say_more]
        waited_for: list[Signals | WorkerProcess] = [signals, *speaking]
        heard, _, _ = select.select(waited_for, [], [], timeout_s)
        for process in speaking:
            if process in heard:
                process.hear()

    def _obey(self, signals: set[int], reopen: Callable[[], None]) -> None:
        if signals & {signal.SIGTERM, signal.SIGINT} and self._deadline is None:
            self._stop()
        if signal.SIGHUP in signals:
            reopen()
            for process in self._processes():
                if process.is_let_go:  # before that it would end by it
                    process.send_signal(signal.SIGHUP)

    def _stop(self) -> None:
        self._deadline = time.monotonic() + self._settings.shutdown_max_s + _GRACE_S
        # Who comes now is refused, and does not wait for a worker that will never have time.
        for port in self._ports:
            port.close()
        self._posts = [post for post in self._posts if post.process is not None]
        for process in self._processes():
            process.send_signal(signal.SIGTERM)

    def _collect(self) -> None:
        """Those that ended."""
        for post in list(self._posts):
            process = post.process
            if process is not None and (status := process.poll()) is not None:
                post.process = None
                self._clear(post)
                self._ended(post, process, status)

    def _clear(self, post: _Post) -> None:
        """Others may have the sessions that it had."""
        handover = self._handover
        if handover.sites >= 0:
            NodeSites(handover.sites, handover.columns, post.column).clear()

    def _ended(self, post: _Post, process: WorkerProcess, status: int) -> None:
        how = f"ended with status {status}" if status >= 0 else f"was ended by signal {-status}"
        if self._deadline is not None:
            self._posts.remove(post)
            if status != 0 and process.is_let_go:
                logger.error("%s %s", process, how)
                self._status = 1
        elif process.is_drained:
            self._posts.remove(post)
            logger.info("%s has emptied its directory, and is wanted no more", process)
        elif not self._has_begun:
            raise process.failure or StartFailed(1, f"{process} {how} before it was ready")
        else:
            why = f": {process.failure}" if process.failure else ""
            self._start_later(post, f"{process} {how}{why}", process.ran_s)

    def _watch(self) -> None:
        """Those that stand still, or do not end."""
        now = time.monotonic()
        if self._deadline is not None:
            if now >= self._deadline:
                self._deadline = math.inf
                for process in self._processes():
                    logger.error("%s does not end; it is killed", process)
                    process.send_signal(signal.SIGKILL)
            return
        limit_s = self._settings.stall_max_s
        for process in self._processes():
            still_s = process.still_s(now, 2 * self._look_every_s)
            # Who looks into it with a debugger knows.
            is_stuck = limit_s and still_s > limit_s and not process.is_traced
            if is_stuck and process.end_by_force(now):
                logger.error("%s has stood still for %.1f s; it is killed", process, still_s)


def _forget_sockets(settings: Settings, workers: Sequence[int]) -> None:
    """Control sockets that a kill left behind, of workers that there are no more."""
    gateway = admin_path(settings.admin, settings.spool)
    for worker, path in workers_at(gateway).items():
        with contextlib.suppress(OSError):
            if worker not in workers and is_abandoned(path):
                os.unlink(path)
