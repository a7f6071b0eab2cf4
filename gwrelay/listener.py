"""The front door: clients' bytes to sessions and back; 250 only once the message is durable.

One greenlet a client.  What SMTP means is smtp/session.py's business; here are sockets,
timers and the order that makes a 250 true: content laid aside, record synced, then the
reply (RFC 5321 6.1).
"""

import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple

import gevent
from gevent.server import StreamServer

from gwrelay.certificate import Certificate
from gwrelay.errors import StoreFailed, StoreFull
from gwrelay.message.envelope import Envelope, Message
from gwrelay.message.reply import Reply
from gwrelay.message.trace import received
from gwrelay.notation import Endpoint, FreeSpace
from gwrelay.processes.board import Column
from gwrelay.processes.ports import endpoint_of
from gwrelay.queue.draft import Draft
from gwrelay.queue.mailqueue import Queue
from gwrelay.smtp.session import Discard, Event, Piece, Policy, Session, Submission
from gwrelay.smtp.tls import TlsSocket, failure
from gwrelay.waiting import Patience

logger = logging.getLogger(__name__)

RECEIVE_BYTES = 64 * 1024
#: Content must come at this many bytes a second at least, the client timeout aside: one
#: byte now and then would hold a session for ever.
_MIN_CONTENT_RATE = 500
#: A socket's timeout of 0 is something else.
_LEAST_S = 0.001
#: Seconds for which an answer about free space is good.
_FREE_SPACE_S = 1.0
#: Seconds for which a client is left to workers that have fewer.  All of them wait at the same
#: socket, and without that the first to wake takes as many as it can: 20 sessions at once were
#: spread over two workers as 20 and 0 again and again; so it is 10 and 10, or 9 and 11.
_OTHERS_FIRST_S = 0.001
#: Of clients, of which is remembered what they may.
_ADDRESSES = 4096

#: A NamedTuple from all its fields.  Calling the class is Python of its own.
_new = tuple.__new__

FULL = Reply(452, "4.3.1", "insufficient system storage, try again later")
FAILED = Reply(451, "4.3.0", "the message could not be stored, try again later")
TIMED_OUT = Reply(421, "4.4.2", "timed out waiting for the client")
STOPPING = Reply(421, "4.3.2", "the gateway is shutting down")
TOO_MANY = Reply(421, "4.7.0", "too many connections, try again later")

#: How a client's TLS handshake may end.  One that the gateway cuts short as it stops is neither.
HANDSHAKES = DONE, UNDONE = "done", "failed"

Networks = Sequence[IPv4Network | IPv6Network]


class Doors(NamedTuple):
    """What all clients have in common."""

    policy: Policy
    relay_from: Networks
    client_timeout_s: float
    #: Of all workers.
    max_connections: int
    #: Where the workers say how many clients each of them has.
    column: Column
    #: Asked at each MAIL; a Reply refuses the message.
    intake: Callable[[], Reply | None]
    #: Told of each message accepted, of the client's address, and of its TLS ("" is none).
    accepted: Callable[[Message, str, str], None]
    #: Handshakes with clients, by how they ended: one of HANDSHAKES.
    handshakes: Counter[str]
    #: None: clients have no TLS.
    certificate: Certificate | None = None


class _Door(StreamServer):  # type: ignore[misc]
    """Takes clients from a socket at which other workers may wait, too."""

    def __init__(
        self,
        port: socket.socket,
        serve: Callable[[socket.socket, tuple[str, int]], None],
        column: Column,
    ) -> None:
        super().__init__(port, serve)
        self._column = column
        self._has_waited = False

    def do_read(self) -> tuple[socket.socket, tuple[str, int]] | None:
        """The next client; None when there is none, or when somebody else should have it."""
        if not self._has_waited and self._column.has_too_many:
            self._has_waited = True
            self.stop_accepting()
            gevent.spawn_later(_OTHERS_FIRST_S, self._go_on)
            return None
        self._has_waited = False
        client: tuple[socket.socket, tuple[str, int]] | None = super().do_read()
        if client is not None:
            self._column.add_client()
        return client

    def _go_on(self) -> None:
        if self.started:
            self.start_accepting()


class Listener:
    """Accepts clients at one address."""

    def __init__(
        self, port: socket.socket, queue: Queue, doors: Doors, *, implicit_tls: bool = False
    ) -> None:
        """`port` listens already; `implicit_tls` as in ListenAddress."""
        self._implicit_tls = implicit_tls
        self._queue = queue
        self._doors = doors
        self._clients: set[Client] = set()
        self._draining = False
        # Many connections from few addresses are what makes it matter: see _plain_address().
        self._may_relay = lru_cache(maxsize=_ADDRESSES)(partial(_is_among, doors.relay_from))
        self._server = _Door(port, self._serve, doors.column)

    @property
    def endpoint(self) -> Endpoint:
        return endpoint_of(self._server.socket)

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
        column = self._doors.column
        try:
            if column.everybodys_clients > self._doors.max_connections:
                # Under TLS it would cost what there is too little of.
                _send_and_close(sock, b"" if self._implicit_tls else TOO_MANY.encode())
            else:
                self._converse(sock, _plain_address(peer[0]))
        finally:
            column.remove_client()

    def _converse(self, sock: socket.socket, address: str) -> None:
        may_relay = self._may_relay(address)
        client = Client(sock, address, self._queue, self._doors, may_relay=may_relay)
        self._clients.add(client)
        try:
            client.serve(implicit_tls=self._implicit_tls)
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

    def __init__(
        self, sock: socket.socket, address: str, queue: Queue, doors: Doors, *, may_relay: bool
    ) -> None:
        """`may_relay` is what its `address` allows."""
        self._sock = sock
        self._tls: TlsSocket | None = None
        #: Version and cipher; "" in the clear.
        self._protection = ""
        #: A greenlet is in the middle of a handshake, or of what it has to say.
        self._is_within_tls = False
        # Neither recv() nor send() waits: see Patience, and _flush().
        sock.settimeout(0.0)
        self._patience = Patience(sock)
        self._address = address
        self._queue = queue
        self._doors = doors
        self._session = Session(doors.policy, may_relay=may_relay, intake=doors.intake)
        self._draft: Draft | None = None
        #: Why the content now coming will be refused.
        self._refusal: Reply | None = None
        self._stopping = False

    def serve(self, *, implicit_tls: bool = False) -> None:
        """The whole session, to its end."""
        session = self._session
        if implicit_tls and not self._secure():
            return
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
                if session.awaits_tls and not self._secure():
                    return
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
            if not self._is_within_tls:
                self._flush()
                self._say_goodbye()
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError as error:
            logger.debug("%s: %s", self._address, error)

    def close(self) -> None:
        self._abandon()
        self._say_goodbye()
        self._patience.close()
        self._sock.close()

    def _new_deadline(self) -> float:
        return time.monotonic() + self._doors.client_timeout_s

    def _receive(self, deadline: float) -> bytes:
        """What the client sends before `deadline`, however slowly; b"" at its end."""
        # In the clear, wait first: nearly always nothing has come yet, and an exception takes
        # longer to say so.  Under TLS more may have come with what was read last.
        source, waits = (self._sock, True) if self._tls is None else (self._tls, False)
        while True:
            # What is there though its time is over, because we had none ourselves, is taken.
            if waits and not (
                self._patience(deadline - time.monotonic()) or self._patience.has_come()
            ):
                self.end(TIMED_OUT)
                return b""
            try:
                return source.recv(RECEIVE_BYTES)
            except BlockingIOError:
                waits = True
            except ConnectionError:
                return b""

    def _flush(self) -> bool:
        """Send what the session has to say; whether there was anything."""
        output = self._session.output()
        if not output:
            return False
        if self._tls is not None:
            self._send_sealed(self._tls, output)
            return True
        try:
            # As in smtp/connection.py: gevent's sendall() costs a system call more.
            sent = self._sock.send(output)
        except BlockingIOError:
            sent = 0
        if sent < len(output):
            # A client that reads nothing is given as long as one that says nothing.
            self._sock.settimeout(self._doors.client_timeout_s)
            try:
                self._sock.sendall(memoryview(output)[sent:])
            finally:
                self._sock.settimeout(0.0)
        return True

    def _secure(self) -> bool:
        """Put TLS between us and the client; False when that came to nothing."""
        certificate = self._doors.certificate
        if certificate is None:
            raise ValueError("TLS without a certificate")
        tls = TlsSocket(self._sock, certificate.context)
        deadline = self._new_deadline()
        self._is_within_tls = True
        try:
            if not self._patience(deadline - time.monotonic()):
                raise TimeoutError("timed out")
            # What waits for its turn so runs for 5 ms between two looks at the sockets, while all
            # that one look finds would run at once: 1,000 hellos held up others for 410 to 490 ms,
            # and so for 30 to 120.
            gevent.sleep(0)
            tls.settimeout(max(deadline - time.monotonic(), _LEAST_S))
            tls.handshake()
        except OSError as error:
            if not self._session.closing:
                self._doors.handshakes[UNDONE] += 1
                logger.info("%s: no TLS: %s", self._address, failure(error))
            return False
        finally:
            self._is_within_tls = False
        self._doors.handshakes[DONE] += 1
        tls.settimeout(0.0)
        self._tls, self._protection = tls, tls.protection
        self._session.secured()
        return True

    def _send_sealed(self, tls: TlsSocket, output: bytes) -> None:
        tls.settimeout(self._doors.client_timeout_s)
        self._is_within_tls = True
        try:
            tls.sendall(output)
        finally:
            self._is_within_tls = False
            tls.settimeout(0.0)

    def _say_goodbye(self) -> None:
        if self._tls is not None and not self._is_within_tls:
            self._tls.say_goodbye()

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
                self._doors.accepted(message, self._address, self._protection)
                return _new(Reply, (250, "2.0.0", f"Ok: queued as {draft.name}"))
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
                draft.name,
                time.time(),
                one,
                self._protection,
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


def _send_and_close(sock: socket.socket, octets: bytes) -> None:
    try:
        sock.settimeout(1)
        sock.sendall(octets)
    except OSError as error:
        logger.debug("refusing a client: %s", error)
    finally:
        sock.close()


@lru_cache(maxsize=_ADDRESSES)
def _plain_address(address: str) -> str:
    """Without a zone, and a v4 address in v6 clothes as the v4 it is.

    To read it here and for whether it may relay took 6 of a new client's 120 microseconds.
    """
    parsed = ip_address(address.partition("%")[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return str(mapped or parsed)


def _is_among(networks: Networks, address: str) -> bool:
    parsed = ip_address(address)
    return any(parsed.version == one.version and parsed in one for one in networks)
