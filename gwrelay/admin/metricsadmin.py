"""What the control socket says to be counted: one worker's numbers, as families.

metricspage.py turns those of all workers into what Prometheus reads.  Reading them walks through
nothing that waits.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from gwrelay.admin.server import Handler
from gwrelay.listener import HANDSHAKES, Listener
from gwrelay.metrics import (
    Family,
    Histogram,
    Metrics,
    by_label,
    counter,
    gauge,
    histogram,
)
from gwrelay.queue.mailqueue import Queue
from gwrelay.queue.spoolstore import SpoolCounters
from gwrelay.relay.manager import SmartHostSMTPRelayingManager
from gwrelay.relay.watch import Watch

#: Seconds between two looks at how late the loop is.
_LAG_EVERY_S = 0.5


def metrics_handlers(
    metrics: Metrics,
    queue: Queue,
    manager: SmartHostSMTPRelayingManager,
    watch: Watch,
    listeners: Sequence[Listener],
    counters: SpoolCounters,
    clock: Callable[[], float] = time.time,
) -> Mapping[str, Handler]:
    """The command by name; `counters` are the spool's."""

    def families() -> Iterator[dict[str, Any]]:
        for family in (*_mail(metrics, manager), *_waiting(), *_sessions(), *_disk()):
            yield family._asdict()

    def _waiting() -> Iterator[Family]:
        counts = queue.counts
        yield by_label(
            "deliveries", "gauge", "Deliveries in the queue, by state.", "state", counts._asdict()
        )
        yield gauge(
            "oldest_message_age_seconds",
            "Age of the oldest message in the queue; 0 when there is none.",
            _oldest_age_s(),
        )
        yield counter(
            "violations",
            "What a self-check found wrong in the queue, and put right.",
            queue.violations.count,
        )
        yield gauge("stuck", "What has not moved for --stuck-after, and should.", watch.count)
        yield gauge(
            "loaded", "1 when all that the spool held at the start is here.", queue.is_loaded
        )

    def _oldest_age_s() -> float:
        first = next(queue.ids(), None)
        # An id is the time it was made, in microseconds.
        return max(0.0, clock() - first[0] / 1e6) if first else 0.0

    def _sessions() -> Iterator[Family]:
        now = clock()
        sites = list(manager.sites)
        connections = sum(listener.connections for listener in listeners)
        yield gauge("client_connections", "Clients connected.", connections)
        yield by_label(
            "client_tls_handshakes",
            "counter",
            "TLS handshakes with clients, by how they ended.",
            "outcome",
            {word: metrics.client_handshakes[word] for word in HANDSHAKES},
        )
        yield gauge("relayers", "Relayers at work, idle ones included.", len(manager.managed))
        yield gauge("relayers_limit", "--concurrency.", manager.max_connections)
        yield gauge("sites", "Sites with mail, or remembered.", len(sites))
        yield gauge(
            "dead_sites",
            "Sites of which all hosts are marked bad.",
            sum(site.dead_until > now for site in sites),
        )
        yield gauge(
            "suspensions",
            "Domains and exchanges that an operator has suspended.",
            len(manager.sites.suspensions.running()),
        )
        yield histogram(
            "loop_lag_seconds", "How late the event loop was, now and then.", metrics.loop_lag_s
        )

    def _disk() -> Iterator[Family]:
        yield counter("spool_syncs", "Successful syncs of the log.", counters.syncs)
        yield counter("spool_failed_syncs", "Syncs of the log that failed.", counters.failed_syncs)
        yield counter("spool_full", "Times a write to the log found no room.", counters.full)
        yield counter("spool_frames", "Frames made durable.", counters.frames)
        yield counter("spool_written_bytes", "Bytes written to the log.", counters.written_bytes)
        yield counter(
            "spool_compacted_segments", "Files of the log compacted.", counters.compacted_segments
        )
        yield gauge(
            "spool_write_amplification",
            "Bytes the disk was asked to write for each byte of a record.",
            counters.write_amplification,
        )
        took = Histogram(counters.commit_bounds_s)
        took.counts, took.total = list(counters.commit_counts), counters.commit_total_s
        yield histogram("commit_seconds", "How long commits to the log took.", took)

    return {"metrics": families}


def _mail(metrics: Metrics, manager: SmartHostSMTPRelayingManager) -> Iterator[Family]:
    yield counter("accepted_messages", "Messages accepted.", metrics.accepted_messages)
    yield counter("accepted_bytes", "Bytes of content accepted.", metrics.accepted_bytes)
    yield by_label(
        "recipients",
        "counter",
        "Recipients whose attempt ended, by how it ended.",
        "outcome",
        {word: metrics.outcomes[word] for word in _OUTCOMES},
    )
    yield counter("in_doubt", "Recipients left in doubt after a final dot.", manager.in_doubt)
    yield counter("reports", "Reports made about messages.", metrics.reports)
    yield histogram(
        "delivery_delay_seconds",
        "From the acceptance of a message to its delivery, for each recipient.",
        metrics.delay_s,
    )


#: All there are, so that each is there from the start.
_OUTCOMES = ("delivered", "deferred", "bounced", "expired", "held")


def watch_lag(metrics: Metrics, stop: threading.Event) -> None:
    """Until `stop`: how much later than asked for the loop comes back."""
    asleep_at = time.monotonic()
    while not stop.wait(_LAG_EVERY_S):
        now = time.monotonic()
        metrics.loop_lag_s.observe(max(0.0, now - asleep_at - _LAG_EVERY_S))
        asleep_at = time.monotonic()
