"""Builds every object once, wires them, spawns their loops, and stops them in order."""

import gc
import logging
import os
import resource
import signal
import socket
import stat
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path

import gevent
from gevent.event import Event as Wakeup

from gwrelay import events, suspensionfile
from gwrelay.admin import Admin, Handler
from gwrelay.config import Settings, admin_path
from gwrelay.diagnostics import reopen_log, start_log
from gwrelay.errors import ConfigError, StoreFailed
from gwrelay.events import EventLog
from gwrelay.explainadmin import explain_handlers
from gwrelay.lastwords import LastWords
from gwrelay.listener import Doors, FreeSpaceGate, Listener
from gwrelay.message import outcome
from gwrelay.message.envelope import Message
from gwrelay.message.outcome import Outcome
from gwrelay.mxadmin import mx_handlers
from gwrelay.mxsetup import build_calculator
from gwrelay.outbound import build_limits, build_security, warn_of_passwords
from gwrelay.queue.delivery import Delivery
from gwrelay.queue.mailqueue import Queue, Settled
from gwrelay.queue.retry import RetryPolicy
from gwrelay.queue.spoolstore import SpoolStore, open_spool
from gwrelay.queueadmin import queue_handlers
from gwrelay.queueverbs import verb_handlers
from gwrelay.relay.explained import Explainer
from gwrelay.relay.manager import RelayStateHelper, SmartHostESMTPRelayingManager
from gwrelay.relay.relayer import ESMTPManagedRelayerFactory, RelayerSettings
from gwrelay.relay.routes import NextHop, Routes
from gwrelay.relay.suspensions import Suspensions
from gwrelay.smtp.session import Policy
from gwrelay.suspendadmin import suspend_handlers
from gwrelay.waiting import for_greenlets

logger = logging.getLogger(__name__)

#: Seconds between two looks at the queue when nothing happens; deliveries that are due and
#: mail that arrives wake it at once.
_CHECK_EVERY_S = 1.0

#: Domains refreshed at a time: one whose name servers are slow holds up none of the others, and
#: what is ready at once keeps the loop busy for less than 20 ms (bench/mx.py).
_REFRESHERS = 4

#: Files a process has open besides its sessions: log segments, events, the resolver.
_OTHER_FILES = 200


def serve(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; the exit status.  Raises ConfigError when it cannot start."""
    log = start_log(settings.log, settings.log_level)
    _raise_file_limit(settings)
    service = Service(settings)
    stop = Wakeup()
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, stop.set)
    gevent.signal_handler(signal.SIGHUP, service.reopen_files, log)
    service.start()
    stop.wait()
    service.stop()
    return 0


class Service:
    """One gateway: spool, queue, manager, calculator, listeners."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._security = build_security(settings)
        warn_of_passwords(settings)
        if settings.source:
            _check_source(settings.source)
        directory = _own_directory(settings.spool)
        self._suspensions = Suspensions(time.time, suspensionfile.read(settings.spool))
        self.events = EventLog(settings.events)
        self._last_words = LastWords()
        try:
            self._log = open_spool(
                directory,
                **for_greenlets(),
                lazy=True,
                segment_bytes=settings.segment_size_bytes,
                compact_ratio=settings.compact_ratio_share,
                compact_rate_bytes_s=settings.compact_rate_bytes_s,
            )
        except StoreFailed as error:
            raise ConfigError(f"--spool {settings.spool}: {error}") from error
        _close_to_others(directory.parent)
        self._queue = Queue(
            SpoolStore(self._log),
            retry=RetryPolicy(
                settings.retry_delays_s,
                settings.lifetime_s,
                settings.bounce_lifetime_s,
                settings.jitter_share,
                settings.in_doubt,
                settings.in_doubt_wait_s,
                settings.honor_retry_hint,
                settings.delay_warning_s,
            ),
            hostname=settings.hostname,
            resident_bytes=settings.resident_bodies_bytes,
            load_later=True,
            fair_by=settings.fair_by,
        )
        self._queue.on_warned = self._warned
        self._queue.recall = self._last_words.outcome_of
        doors = Doors(
            Policy(
                settings.hostname,
                settings.max_message_size_bytes,
                settings.max_recipients,
                settings.max_hops,
            ),
            settings.relay_from,
            settings.client_timeout_s,
            settings.max_connections,
            FreeSpaceGate(settings.spool, settings.min_free_space),
            self._accepted,
        )
        self._listeners = [Listener(at, self._queue, doors) for at in settings.listen]
        self._calculator = build_calculator(settings, [w.endpoint for w in self._listeners])
        self._manager = self._build_manager()
        self._admin = Admin(admin_path(settings.admin, settings.spool), self._handlers())
        self._stopping = threading.Event()
        self._loops: list[gevent.Greenlet] = []

    def start(self) -> None:
        """Spawn every loop, then accept; what waits in the spool is loaded meanwhile."""
        helper = RelayStateHelper(self._manager, _CHECK_EVERY_S)
        refreshing = [self._calculator.run] * _REFRESHERS
        loops = (self._log.run, *refreshing, self.events.run, helper.run, self._queue.load)
        for loop in loops:
            self._loops.append(gevent.spawn(loop, self._stopping))
        # What lives now lives as long as the process: no collection need look at it again.  The
        # containers that what waits is put into are among it, and hold nothing that the
        # collector follows, so it stays short however much waits.
        gc.collect()
        gc.freeze()
        self._admin.start()
        for listener in self._listeners:
            listener.start()
        addresses = ", ".join(str(listener.endpoint) for listener in self._listeners)
        logger.info("ready: listening on %s; loading what the spool holds", addresses)

    def reopen_files(self, log: logging.Handler) -> None:
        """SIGHUP: somebody renamed the log and the events, to keep them."""
        reopen_log(log)
        self.events.reopen()

    def stop(self) -> None:
        """Stop accepting, finish what is in flight within --shutdown-max, lose nothing."""
        deadline = time.monotonic() + self._settings.shutdown_max_s
        logger.info("stopping")
        for listener in self._listeners:
            listener.stop_accepting()
        relaying = gevent.spawn(self._manager.stop, self._settings.shutdown_max_s)
        while time.monotonic() < deadline and not all(w.is_empty for w in self._listeners):
            gevent.sleep(0.02)
        for listener in self._listeners:
            listener.close()
        relaying.join()
        self._stopping.set()
        self._manager.wake()
        gevent.joinall(self._loops, timeout=1)
        self._admin.close()
        self._queue.close()
        self.events.close()
        logger.info(
            "stopped; %s%d deliveries waiting",
            "" if self._queue.is_loaded else "still loading; at least ",
            len(self._queue),
        )

    def _build_manager(self) -> SmartHostESMTPRelayingManager:
        settings = self._settings
        relayers = RelayerSettings(
            hostname=settings.hostname,
            timeouts_s=_stage_timeouts(settings),
            max_messages_per_connection=settings.messages_per_connection,
            recipients_per_message=settings.recipients_per_message,
            connection_lifetime_s=settings.connection_lifetime_s,
            idle_timeout_s=settings.idle_timeout_s,
            max_sessions=settings.mx_max_sessions,
            reply_max_bytes=settings.reply_max_bytes,
            smtp_port=settings.smtp_port,
            source=settings.source,
            min_data_rate=settings.min_data_rate,
            pipelining=settings.pipelining == "yes",
            rset_mode=settings.rset_mode,
        )
        smarthosts = tuple(NextHop(at.host, at.port) for at in settings.smarthost)
        return SmartHostESMTPRelayingManager(
            self._queue,
            calculator=self._calculator,
            routes=Routes(smarthosts),
            factory=ESMTPManagedRelayerFactory(relayers, security=self._security),
            max_connections=settings.concurrency,
            limits=build_limits(settings),
            messages_per_s=settings.global_message_rate_per_s,
            rollup=settings.rollup,
            suspensions=self._suspensions,
            dns_concurrency=settings.dns_concurrency,
            ended=self._ended,
        )

    def _handlers(self) -> dict[str, Handler]:
        """What the control socket does."""
        queue, manager, words = self._queue, self._manager, self._last_words
        explainer = Explainer(manager, self._calculator, self._settings.source)
        return {
            **mx_handlers(self._calculator, manager),
            **queue_handlers(queue, explainer, words),
            **verb_handlers(queue),
            **suspend_handlers(manager.sites, self._settings.spool),
            **explain_handlers(queue, manager, explainer, words, self._listeners),
        }

    def _accepted(self, message: Message, client: str) -> None:
        if self.events:
            self.events.write(events.accepted(message, client))

    def _warned(self, original: Message, report: Message, recipients: Collection[int]) -> None:
        if self.events:
            self.events.write(events.reported(original, report, recipients))

    def _ended(
        self, delivery: Delivery, attempt: int, told: Mapping[int, Outcome], settled: Settled
    ) -> None:
        now = time.time()
        self._last_words.note(delivery, attempt, told, settled, now)
        if self.events:
            for event in events.ended(delivery, attempt, told, settled, now):
                self.events.write(event)


def _check_source(address: str) -> None:
    """Raises ConfigError for an address that is not ours: no session could ever be opened."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.bind((address, 0))
    except OSError as error:
        raise ConfigError(
            f"--source {address}: {error.strerror or error}; give an address of this machine"
        ) from error


def _stage_timeouts(settings: Settings) -> dict[str, float]:
    return {
        outcome.CONNECT: settings.connect_timeout_s,
        outcome.BANNER: settings.banner_timeout_s,
        outcome.EHLO: settings.ehlo_timeout_s,
        outcome.STARTTLS: settings.starttls_timeout_s,
        outcome.AUTH: settings.ehlo_timeout_s,
        outcome.MAIL: settings.mail_timeout_s,
        outcome.RCPT: settings.rcpt_timeout_s,
        outcome.DATA: settings.data_timeout_s,
        outcome.CONTENT: settings.block_timeout_s,
        outcome.DOT: settings.dot_timeout_s,
        outcome.RSET: settings.rset_timeout_s,
        outcome.QUIT: settings.quit_timeout_s,
    }


def _own_directory(path: str) -> Path:
    """The worker's directory inside `path`.

    Refuses one that belongs to somebody else, or that holds other things: closing a
    stranger's directory to everybody would be no service.
    """
    top = Path(path)
    try:
        top.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = top.stat()
        sockets = {e.name for e in os.scandir(top) if stat.S_ISSOCK(e.stat().st_mode)}
        names = os.listdir(top)
    except OSError as error:
        raise ConfigError(f"--spool {path}: {error.strerror}") from error
    if not stat.S_ISDIR(about.st_mode):
        raise ConfigError(f"--spool {path}: not a directory")
    if about.st_uid != os.geteuid():
        raise ConfigError(f"--spool {path}: belongs to user {about.st_uid}, not to us")
    # Ours, from this life or one that kill -9 ended.
    ours = {*sockets, suspensionfile.NAME, suspensionfile.NAME + ".new"}
    names = [name for name in names if name not in ours]
    strange = [n for n in names if not n.startswith("worker-") and n != "lost+found"]
    if strange:
        raise ConfigError(f"--spool {path}: not a spool, it holds {sorted(strange)[0]!r}")
    return top / "worker-0"


def _close_to_others(top: Path) -> None:
    """When it is known that the spool is for us: one of a newer program is left as it is."""
    if top.stat().st_mode & 0o077:
        logger.warning("spool %s was open to others; its mode is 0700 now", top)
        top.chmod(0o700)


def _raise_file_limit(settings: Settings) -> None:
    """As many open files as the system allows; says so when that is too few."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    needed = settings.concurrency + settings.max_connections + _OTHER_FILES
    if hard != resource.RLIM_INFINITY and hard < needed:
        logger.warning(
            "the limit of open files is %d; --concurrency %d and --max-connections %d may need "
            "%d: raise it, or lower these",
            hard,
            settings.concurrency,
            settings.max_connections,
            needed,
        )
