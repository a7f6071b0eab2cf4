"""Builds every object once, wires them, spawns their loops, and stops them in order."""

import gc
import logging
import signal
import socket
import threading
import time
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

import gevent

from gwrelay import events
from gwrelay.admin import suspensionfile
from gwrelay.admin.control import worker_socket
from gwrelay.admin.explainadmin import explain_handlers
from gwrelay.admin.lastwords import LastWords
from gwrelay.admin.metricsadmin import metrics_handlers, watch_lag
from gwrelay.admin.mxadmin import mx_handlers
from gwrelay.admin.queueadmin import queue_handlers
from gwrelay.admin.queueverbs import verb_handlers
from gwrelay.admin.server import Admin, Handler
from gwrelay.admin.suspendadmin import suspend_handlers
from gwrelay.certificate import Certificate, read_certificate, shared
from gwrelay.config import MOST_WORKERS, Settings, admin_path
from gwrelay.diagnostics import reopen_log, start_log
from gwrelay.errors import ConfigError, GatewayError, StoreFailed
from gwrelay.events import EventLog
from gwrelay.listener import Doors, FreeSpaceGate, Listener
from gwrelay.message import outcome
from gwrelay.message.envelope import Message
from gwrelay.message.outcome import Outcome
from gwrelay.metrics import Metrics
from gwrelay.mxsetup import build_calculator
from gwrelay.notices import Notices
from gwrelay.outbound import build_limits, build_security, warn_of_passwords
from gwrelay.processes.handover import Handover
from gwrelay.processes.ports import endpoint_of, log_ready
from gwrelay.processes.worker import Place, alone, take_place
from gwrelay.queue.delivery import Delivery
from gwrelay.queue.mailqueue import Queue, Settled
from gwrelay.queue.retry import RetryPolicy
from gwrelay.queue.spoolstore import SpoolStore, open_spool, remove_spool
from gwrelay.relay.explained import Explainer
from gwrelay.relay.manager import RelayStateHelper, SmartHostESMTPRelayingManager
from gwrelay.relay.owners import Owners
from gwrelay.relay.relayer import ESMTPManagedRelayerFactory, RelayerSettings
from gwrelay.relay.routes import NextHop, Routes
from gwrelay.relay.suspensions import Suspensions
from gwrelay.relay.watch import Watch
from gwrelay.smtp.session import Policy
from gwrelay.spooldirectory import close_to_others, worker_directory
from gwrelay.waiting import Gate, Patience, for_greenlets

logger = logging.getLogger(__name__)

#: Seconds between two looks at the queue when nothing happens; deliveries that are due and
#: mail that arrives wake it at once.
_CHECK_EVERY_S = 1.0

#: Domains refreshed at a time: one whose name servers are slow holds up none of the others, and
#: what is ready at once keeps the loop busy for less than 20 ms (bench/mx.py).
_REFRESHERS = 4

#: Seconds between two looks at whether a directory is drained.
_DRAINED_EVERY_S = 0.5


def serve(settings: Settings, number: int, handover: Handover | None) -> int:
    """Be worker `number` until SIGTERM or SIGINT; the exit status.  None: without a supervisor.

    Raises GatewayError when it cannot start; where there is a supervisor, that one says so.
    """
    if handover is None:
        return _work(settings, alone(number, settings))
    place = take_place(number, handover, settings)
    try:
        return _work(settings, place)
    except GatewayError as error:
        place.say_failed(str(error), error.exit_status)
        return error.exit_status


def _work(settings: Settings, place: Place) -> int:
    log = start_log(settings.log, settings.log_level, place.tag)
    service = Service(settings, place)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, stop.set)
    gevent.signal_handler(signal.SIGHUP, service.reopen_files, log)
    listening = gevent.spawn(place.listen)
    place.say_ready(service.last_id)
    gevent.wait((place.go, stop), count=1)
    if not place.go.is_set():
        service.close()
        return 0
    service.start()
    if place.drains:
        service.wait_until_drained(stop)
    else:
        stop.wait()
    service.stop()
    if not stop.is_set():
        service.remove_spool()
    listening.kill()
    return 0


class Service:
    """One worker: spool, queue, manager, calculator, listeners."""

    def __init__(self, settings: Settings, place: Place) -> None:
        self._settings = settings
        self._place = place
        self._security = build_security(settings)
        if place.number == 0:  # once for all of them
            warn_of_passwords(settings)
        if settings.source:
            _check_source(settings.source)
        self._suspensions = Suspensions(time.time, suspensionfile.read(settings.spool))
        self.events = EventLog(settings.events)
        self._last_words = LastWords()
        self._metrics = Metrics()
        self._directory = worker_directory(Path(settings.spool), place.number)
        try:
            self._log = open_spool(
                self._directory,
                **for_greenlets(),
                share=(place.number, MOST_WORKERS),
                lazy=True,
                segment_bytes=settings.segment_size_bytes,
                compact_ratio=settings.compact_ratio_share,
                compact_rate_bytes_s=settings.compact_rate_bytes_s,
            )
        except StoreFailed as error:
            raise ConfigError(f"--spool {settings.spool}: {error}") from error
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
        self._certificate = _certificate(settings, place)
        doors = Doors(
            Policy(
                settings.hostname,
                settings.max_message_size_bytes,
                settings.max_recipients,
                settings.max_hops,
                offers_tls=self._certificate is not None,
            ),
            settings.relay_from,
            settings.client_timeout_s,
            settings.max_connections,
            place.column,
            FreeSpaceGate(settings.spool, settings.min_free_space),
            self._accepted,
            self._metrics.client_handshakes,
            self._certificate,
        )
        ports = [] if place.drains else zip(place.ports, settings.listen, strict=True)
        self._listeners = [
            Listener(port, self._queue, doors, implicit_tls=address.implicit_tls)
            for port, address in ports
        ]
        marks = None
        if place.shared is not None:
            marks = place.shared.marks(settings.mx_bad_time_s[1], time.time)
        self._notices = Notices(
            self._queue,
            to=settings.notify_postmaster,
            hostname=settings.hostname,
            directory=settings.spool,
            accepted=partial(self._accepted, client="", tls=""),
        )
        listening = [endpoint_of(port) for port in place.ports]
        self._calculator = build_calculator(settings, listening, marks)
        self._manager = self._build_manager()
        self._watch = Watch(self._manager, settings.stuck_after_s, alarmed=self._alarmed)
        self._admin = Admin(
            worker_socket(admin_path(settings.admin, settings.spool), place.number),
            self._handlers(),
        )
        self._stopping = threading.Event()
        self._loops: list[gevent.Greenlet] = []

    def start(self) -> None:
        """Spawn every loop, then accept; what waits in the spool is loaded meanwhile."""
        self._log.give_out_above(self._place.ids_above)
        helper = RelayStateHelper(self._manager, _CHECK_EVERY_S)
        refreshing = [self._calculator.run] * _REFRESHERS
        loops = (self._log.run, *refreshing, self.events.run, helper.run, self._queue.load)
        lag = partial(watch_lag, self._metrics)
        checks = (self._queue.selfcheck.run, Owners(self._manager).run, self._watch.run)
        loops += (*checks, self._place.beat, lag)
        if self._settings.notify_postmaster:
            loops += (self._notices.run,)
        for loop in loops:
            self._loops.append(gevent.spawn(loop, self._stopping))
        # What lives now lives as long as the process: no collection need look at it again.  The
        # containers that what waits is put into are among it, and hold nothing that the
        # collector follows, so it stays short however much waits.
        gc.collect()
        gc.freeze()
        self._admin.start()
        self._reload_certificate()  # a signal to do so may have come too early for this process
        if self._listeners:
            self._place.column.open()
        for listener in self._listeners:
            listener.start()
        self._place.say_begun()
        if self._place.is_alone:
            close_to_others(Path(self._settings.spool))
            log_ready(self._place.ports)

    @property
    def last_id(self) -> int:
        """No message here ever had an id above it."""
        return self._log.last_key

    def wait_until_drained(self, stop: threading.Event) -> None:
        """Until nothing is left to be relayed, held mail included, or `stop` comes first."""
        while not stop.wait(_DRAINED_EVERY_S):
            if self._queue.is_loaded and not len(self._queue) and self._manager.is_idle:
                return

    def remove_spool(self) -> None:
        """After close(): take the directory away, and have this worker wanted no more."""
        if len(self._log):
            return  # a report came just then: the next life delivers it
        reason = remove_spool(self._directory)
        if reason:
            logger.warning("%s is empty, and left where it is: %s", self._directory, reason)
        self._place.say_drained()

    def reopen_files(self, log: logging.Handler) -> None:
        """SIGHUP: somebody renamed the log and the events, to keep them, or has a new certificate
        for us."""
        reopen_log(log)
        self.events.reopen()
        self._reload_certificate()

    def _reload_certificate(self) -> None:
        if self._certificate is not None:
            self._certificate.reload()

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
        self.close()
        logger.info(
            "stopped; %s%d deliveries waiting",
            "" if self._queue.is_loaded else "still loading; at least ",
            len(self._queue),
        )

    def close(self) -> None:
        """Let go of everything; all that is settled is durable on return."""
        self._admin.close()
        self._queue.close()
        self.events.close()

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
            patience=Patience,
            event=Gate,
            breached=self._notices.note if settings.notify_postmaster else None,
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
            node=None if self._place.shared is None else self._place.shared.sites,
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
            **metrics_handlers(
                *(self._metrics, queue, manager, self._watch),
                *(self._listeners, self._log.counters),
            ),
            **explain_handlers(
                *(queue, manager, explainer, self._watch, words, self._listeners),
                *(self._place.number, self._place.gateway_pid),
            ),
        }

    def _accepted(self, message: Message, client: str, tls: str) -> None:
        self._metrics.accepted_messages += 1
        self._metrics.accepted_bytes += message.size_bytes
        if self.events:
            self.events.write(events.accepted(message, client, tls))

    def _warned(self, original: Message, report: Message, recipients: Collection[int]) -> None:
        self._metrics.reports += 1
        if self.events:
            self.events.write(events.reported(original, report, recipients))

    def _alarmed(self, what: str, for_s: float) -> None:
        if self.events:
            self.events.write(events.stuck(what, for_s, time.time()))

    def _ended(
        self, delivery: Delivery, attempt: int, told: Mapping[int, Outcome], settled: Settled
    ) -> None:
        now = time.time()
        self._last_words.note(delivery, attempt, told, settled, now)
        self._count(delivery, told, settled, now)
        if self.events:
            for event in events.ended(delivery, attempt, told, settled, now):
                self.events.write(event)

    def _count(
        self, delivery: Delivery, told: Mapping[int, Outcome], settled: Settled, now: float
    ) -> None:
        metrics = self._metrics
        for word in events.words(told, settled):
            metrics.outcomes[word] += 1
            if word == events.DELIVERED:
                metrics.delay_s.observe(now - delivery.arrived_at)
        metrics.reports += settled.report is not None


def _certificate(settings: Settings, place: Place) -> Certificate | None:
    if place.certificate >= 0:
        return shared(place.certificate, settings)
    return read_certificate(settings)


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
