"""The front door: clients' bytes to sessions and back; 250 only once the message is durable.

One greenlet a client.  What SMTP means is smtp/session.py's business; here are sockets,
timers and the order that makes a 250 true: content laid aside, record synced, then the
reply (RFC 5321 6.1).
"""

import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple

from gevent.server import StreamServer

from gwrelay.errors import ConfigError, StoreFailed, StoreFull
from gwrelay.message.envelope import Envelope, Message, message_name
from gwrelay.message.reply import Reply
from gwrelay.message.trace import received
from gwrelay.notation import Endpoint, FreeSpace
from gwrelay.queue.draft import Draft
from gwrelay.queue.mailqueue import Queue
from gwrelay.smtp.session import Discard, Event, Piece, Policy, Session, Submission

logger = logging.getLogger(__name__)

RECEIVE_BYTES = 64 * 1024
_BACKLOG = 1024
#: Content must come at this many bytes a second at least, the client timeout aside: one
#: byte now and then would hold a session for ever.
_MIN_CONTENT_RATE = 500
#: Seconds for which an answer about free space is good.
_FREE_SPACE_S = 1.0

FULL = Reply(452, "4.3.1", "insufficient system storage, try again later")
FAILED = Reply(451, "4.3.0", "the message could not be stored, try again later")
TIMED_OUT = Reply(421, "4.4.2", "timed out waiting for the client")
STOPPING = Reply(421, "4.3.2", "the gateway is shutting down")
TOO_MANY = Reply(421, "4.7.0", "too many connections, try again later")

Networks = Sequence[IPv4Network | IPv6Network]


class Doors(NamedTuple):
    """What all clients have in common."""

    policy: Policy
    relay_from: Networks
    client_timeout_s: float
    max_connections: int
    #: Asked at each MAIL; a Reply refuses the message.
    intake: Callable[[], Reply | None]
    #: Told of each message accepted, and of the client's address.
    accepted: Callable[[Message, str], None]


class Listener:
    """Accepts clients on one address."""

    def __init__(self, endpoint: Endpoint, queue: Queue, doors: Doors) -> None:
        """Binds at once; raises ConfigError when the address cannot be had."""
        self._queue = queue
        self._doors = doors
        self._clients: set[Client] = set()
        self._draining = False
        self._server = StreamServer(_bind(endpoint), self._serve)

    @property
    def endpoint(self) -> Endpoint:
        """The address in use; the port is the real one when 0 was asked for."""
        host, port = self._server.socket.getsockname()[:2]
        return Endpoint(host, port)

    def start(self) -> None:
        self._server.start()

    def stop_accepting(self) -> None:
        """Take no new client, and see off those with no transaction open."""
        self._draining = True
        self._server.close()
        for client in list(self._clients):
            client.stop_when_idle()

    @property
    def connections(self) -> int:
        """Clients there are."""
        return len(self._clients)

    @property
    def is_empty(self) -> bool:
        return not self._clients

    def close(self) -> None:
        """End every session, wherever it is; unanswered content is nobody's but the client's."""
        for client in list(self._clients):
            client.end(STOPPING)

    def _serve(self, sock: socket.socket, peer: tuple[str, int]) -> None:
        address = _plain_address(peer[0])
        if len(self._clients) >= self._doors.max_connections:
            _send_and_close(sock, TOO_MANY.encode())
            return
        client = Client(sock, address, self._queue, self._doors)
        self._clients.add(client)
        try:
            client.serve()
        except OSError as error:
            logger.debug("%s: %s", address, error)
        except Exception:
            # The guard: a bug costs one session, which is told to try again.
            logger.exception("session with %s", address)
            client.end(FAILED)
        finally:
            self._clients.discard(client)
            client.close()


class Client:
    """One client's connection: its socket, its session, the message it is sending."""

    def __init__(self, sock: socket.socket, address: str, queue: Queue, doors: Doors) -> None:
        self._sock = sock
        self._address = address
        self._queue = queue
        self._doors = doors
        may_relay = any(_holds(network, address) for network in doors.relay_from)
        self._session = Session(doors.policy, may_relay=may_relay, intake=doors.intake)
        self._draft: Draft | None = None
        #: Why the content now coming will be refused.
        self._refusal: Reply | None = None
        self._stopping = False

    def serve(self) -> None:
        """The whole session, to its end."""
        session = self._session
        session.greet()
        self._flush()
        deadline = self._new_deadline()
        content_began = 0.0
        content_bytes = 0
        while not session.closing:
            if self._stopping and session.idle:
                self.end(STOPPING)
                return
            chunk = self._receive(deadline)
            if not chunk:
                return
            self._take(session.receive(chunk))
            if self._flush():
                deadline, content_bytes, content_began = self._new_deadline(), 0, time.monotonic()
            elif session.in_content:
                content_bytes += len(chunk)
                allowed_s = content_bytes / _MIN_CONTENT_RATE
                deadline = content_began + self._doors.client_timeout_s + allowed_s

    def stop_when_idle(self) -> None:
        """Say 421 now if no transaction is open, else as soon as none is."""
        self._stopping = True
        if self._session.idle:
            self.end(STOPPING)

    def end(self, reply: Reply) -> None:
        """Close with `reply`; whoever is reading from this client sees the end of it."""
        self._session.give_up(reply)
        try:
            self._flush()
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError as error:
            logger.debug("%s: %s", self._address, error)

    def close(self) -> None:
        self._abandon()
        self._sock.close()

    def _new_deadline(self) -> float:
        return time.monotonic() + self._doors.client_timeout_s

    def _receive(self, deadline: float) -> bytes:
        """What the client sends before `deadline`, however slowly; b"" at its end."""
        self._sock.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            return self._sock.recv(RECEIVE_BYTES)
        except TimeoutError:
            self.end(TIMED_OUT)
            return b""
        except ConnectionError:
            return b""

    def _flush(self) -> bool:
        """Send what the session has to say; whether there was anything."""
        output = self._session.output()
        if output:
            # A client that reads nothing is given as long as one that says nothing.
            self._sock.settimeout(self._doors.client_timeout_s)
            # As in smtp/connection.py: gevent's sendall() costs a system call more.
            sent = self._sock.send(output)
            if sent < len(output):
                self._sock.sendall(memoryview(output)[sent:])
        return bool(output)

    def _take(self, events: list[Event]) -> None:
        """Obey what the session made of the client's bytes, in order."""
        while events:
            event = events.pop(0)
            if isinstance(event, Submission):
                reply = self._accept(event.envelope, event.content)
                events += self._session.answer(reply)
            elif isinstance(event, Piece):
                self._lay_aside(event.content)
            elif isinstance(event, Discard):
                self._abandon()

    def _lay_aside(self, piece: bytes) -> None:
        if self._refusal is not None:
            return
        if self._draft is None:
            self._draft = self._queue.draft()
        try:
            self._draft.add(self._traced(self._draft, None, piece))
        except (StoreFull, StoreFailed) as error:
            self._refusal = self._refused(error)

    def _accept(self, envelope: Envelope, content: bytes) -> Reply:
        """Make the message durable; the reply to its final dot."""
        draft = self._draft or self._queue.draft()
        if self._refusal is None:
            try:
                message = draft.accept(envelope, self._traced(draft, envelope, content))
            except (StoreFull, StoreFailed) as error:
                self._refusal = self._refused(error)
            else:
                self._draft = None
                self._doors.accepted(message, self._address)
                return Reply(250, "2.0.0", f"Ok: queued as {message_name(message.id)}")
        refusal = self._refusal
        self._abandon()
        return refusal

    def _traced(self, draft: Draft, envelope: Envelope | None, content: bytes) -> bytes:
        """`content` with our Received field on top, if it is the beginning of the message."""
        if not draft.is_empty:
            return content
        session = self._session
        one = envelope.recipients[0].address if envelope and len(envelope.recipients) == 1 else None
        return (
            received(
                session.helo,
                self._address,
                self._doors.policy.hostname,
                session.protocol,
                message_name(draft.id),
                time.time(),
                one,
            )
            + content
        )

    def _refused(self, error: StoreFull | StoreFailed) -> Reply:
        logger.warning("message from %s refused: %s", self._address, error)
        return FULL if isinstance(error, StoreFull) else FAILED

    def _abandon(self) -> None:
        """The message being received will not be ours."""
        self._refusal = None
        if self._draft is not None:
            draft, self._draft = self._draft, None
            draft.abandon()


class FreeSpaceGate:
    """Refuses mail while the spool's disk has less free than it should."""

    def __init__(self, directory: str, required: FreeSpace) -> None:
        self._directory = directory
        self._required = required
        self._checked_at = float("-inf")
        self._refusal: Reply | None = None

    def __call__(self) -> Reply | None:
        now = time.monotonic()
        if now - self._checked_at >= _FREE_SPACE_S:
            self._checked_at = now
            self._check()
        return self._refusal

    def _check(self) -> None:
        disk = os.statvfs(self._directory)
        free_bytes = disk.f_bavail * disk.f_frsize
        needed_bytes = self._required.needed_bytes(disk.f_blocks * disk.f_frsize)
        refusal = FULL if free_bytes < needed_bytes else None
        if refusal and not self._refusal:
            logger.warning("refusing mail: %d bytes free, %d required", free_bytes, needed_bytes)
        elif self._refusal and not refusal:
            logger.warning("taking mail again: %d bytes free", free_bytes)
        self._refusal = refusal


def _bind(endpoint: Endpoint) -> socket.socket:
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
    except OSError as error:
        sock.close()
        raise ConfigError(f"cannot listen on {endpoint}: {error.strerror or error}") from error
    return sock


def _send_and_close(sock: socket.socket, octets: bytes) -> None:
    try:
        sock.settimeout(1)
        sock.sendall(octets)
    except OSError as error:
        logger.debug("refusing a client: %s", error)
    finally:
        sock.close()


def _plain_address(address: str) -> str:
    """Without a zone, and a v4 address in v6 clothes as the v4 it is."""
    parsed = ip_address(address.partition("%")[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return str(mapped or parsed)


def _holds(network: IPv4Network | IPv6Network, address: str) -> bool:
    parsed = ip_address(address)
    return parsed.version == network.version and parsed in network
