"""The sockets that clients come to.  Opened once, by whoever starts the gateway: its workers
inherit them.  Loads no gevent.
"""

import errno
import logging
import socket
import time
from collections.abc import Iterable

from gwrelay.errors import ConfigError
from gwrelay.notation import Endpoint

logger = logging.getLogger(__name__)

_BACKLOG = 1024
#: Seconds between two tries at an address that is about to be free.
_TRY_EVERY_S = 0.05


def open_ports(endpoints: Iterable[Endpoint], wait_s: float = 0.0) -> list[socket.socket]:
    """Listen at all of these, waiting for `wait_s` at most until nobody else does.

    Raises ConfigError when one of them cannot be had.
    """
    deadline = time.monotonic() + wait_s
    return [_open_port(endpoint, deadline) for endpoint in endpoints]


def endpoint_of(listening: socket.socket) -> Endpoint:
    """The address in use; the port is the real one when 0 was asked for."""
    host, port = listening.getsockname()[:2]
    return Endpoint(host, port)


def log_ready(ports: Iterable[socket.socket]) -> None:
    """Say that clients are served at these."""
    addresses = ", ".join(str(endpoint_of(port)) for port in ports)
    logger.info("ready: listening on %s; loading what the spool holds", addresses)


def _open_port(endpoint: Endpoint, deadline: float) -> socket.socket:
    while True:
        try:
            return _listening(endpoint)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                reason = error.strerror or error
                raise ConfigError(f"cannot listen on {endpoint}: {reason}") from error
            time.sleep(_TRY_EVERY_S)


def _listening(endpoint: Endpoint) -> socket.socket:
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted sockets inherit it; gevent's server does not set it, and each reply would
        # wait for the client's delayed acknowledgement.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((endpoint.host, endpoint.port))
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
