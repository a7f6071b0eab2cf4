"""The page that Prometheus reads: what all workers count, with the worker as a label.

An HTTP server of its own thread, for a process without gevent.  No label has more values than
there are workers or outcomes: neither domains nor hosts.
"""

import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from gwrelay import __version__

logger = logging.getLogger(__name__)

_PREFIX = "gwrelay_"
#: Seconds that a client may take for its request.
_CLIENT_S = 5.0

#: Each worker's number, and its families as metricsadmin.py gives them; None for one that does
#: not answer.
Read = Callable[[], Iterable[tuple[int, list[dict[str, Any]] | None]]]


class Collector:
    """What prometheus_client asks for each page."""

    def __init__(self, read: Read) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        about = GaugeMetricFamily(f"{_PREFIX}info", "What runs.", labels=["version"])
        about.add_metric([__version__], 1)
        yield about
        up = GaugeMetricFamily(f"{_PREFIX}worker_up", "1 when it answers.", labels=["worker"])
        families: dict[str, Any] = {}
        for worker, told in self._read():
            up.add_metric([str(worker)], told is not None)
            for family in told or ():
                add(families, worker, family)
        yield up
        yield from families.values()


def add(families: dict[str, Any], worker: int, told: Mapping[str, Any]) -> None:
    """One worker's numbers, to those that others have of the same kind."""
    name = _PREFIX + told["name"]
    labels = [*(told["samples"][0][0] if told["samples"] else ()), "worker"]
    if name not in families:
        families[name] = _KINDS[told["kind"]](name, told["help"], labels=labels)
    family = families[name]
    if isinstance(family, HistogramMetricFamily):
        counts = list(accumulate(told["counts"]))
        ends = [*(repr(float(bound)) for bound in told["bounds"]), "+Inf"]
        buckets = list(zip(ends, counts, strict=True))
        family.add_metric([str(worker)], buckets, told["total"])
    else:
        for words, value in told["samples"]:
            family.add_metric([*words.values(), str(worker)], value)


_KINDS: dict[str, Any] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


class Page:
    """Serves /metrics at `address` (host, port) until close().  OSError when it cannot."""

    def __init__(self, address: tuple[str, int], read: Read) -> None:
        registry = CollectorRegistry()
        registry.register(Collector(read))
        self._server = _Server(address, partial(generate_latest, registry))
        host, port = self._server.socket.getsockname()[:2]
        self.address: tuple[str, int] = host, port
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    """`page` gives what /metrics says now."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], page: Callable[[], bytes]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.page = page
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _CLIENT_S

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404, "there is /metrics alone")
            return
        page = self.server.page()
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE_LATEST)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, format: str, *arguments: object) -> None:
        logger.debug("metrics: " + format, *arguments)
