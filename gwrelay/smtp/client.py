"""smtplib's client as we use it: our socket, our reply reader, a timer for each stage.

Losing the connection, or hearing what is no SMTP, raises ConnectionLost with the stage it happened
in (RFC 5321 4.5.3.2 gives each its timer).

smtplib is used for what it does well (the EHLO table, the commands) and kept away from what
it does badly: it resolves names itself, applies one timer to each read, takes any text for a
reply, knows no SCRAM, and forgets recipients when a server says 421.
"""

import errno
import smtplib
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from gwrelay.errors import ConnectionLost
from gwrelay.message import outcome
from gwrelay.message.reply import Reply
from gwrelay.smtp.replies import ProtocolError, ReplyReader
from gwrelay.smtp.tls import TlsSocket
from gwrelay.smtp.transcript import Transcript

RECEIVE_BYTES = 16 * 1024

#: Why no connection can begin that is nothing about the other end: no descriptor, no memory, no
#: free port.
_OURS = frozenset(
    (
        *(errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM),
        *(errno.EADDRNOTAVAIL, errno.EADDRINUSE),
    )
)


class Patience(Protocol):
    """A way to wait that is cheaper than the socket's own; for one socket, while it is clear."""

    def __call__(self, seconds: float) -> bool:
        """Until there is something to receive, or the end; False when `seconds` are over."""

    def has_come(self) -> bool:
        """Whether there is now."""

    def close(self) -> None:
        """Before the socket is closed."""


class Client(smtplib.SMTP):
    """smtplib's client with our socket, our reply reader and a timer for each stage."""

    def __init__(
        self, local_hostname: str, timeouts_s: Mapping[str, float], reply_max_bytes: int
    ) -> None:
        # A given local_hostname keeps smtplib from calling getfqdn(), a DNS look-up
        # for every connection.
        super().__init__(local_hostname=local_hostname)
        self.stage = outcome.CONNECT
        self.reader = ReplyReader(reply_max_bytes)
        self.reply = Reply(0, "", "")
        #: Times that bytes went out, or came in.
        self.moves = 0
        #: What was said; None: nobody wants to know.
        self.transcript: Transcript | None = None
        #: The other end was lost by its breach of the protocol.
        self.is_breached = False
        #: Where the connection comes from.
        self.own_address = ""
        #: How to wait for the other end; None: as the socket does.
        self.patience: Patience | None = None
        self._timeouts_s = timeouts_s
        #: The socket's.
        self._timeout_s = -1.0
        self._clock: Callable[[], float] = time.monotonic

    def open(self, address: str, port: int, source: str) -> None:
        """Connect to one address; smtplib's own connect() would resolve and try several."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            sock = self.sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(self._timeouts_s[outcome.CONNECT])
            if source:
                self._bind(sock, source)
            sock.connect((address, port))
            self.own_address = sock.getsockname()[0]
        except OSError as error:
            self.close()
            ours = error.errno in _OURS
            raise ConnectionLost(outcome.CONNECT, in_words(error), ours=ours) from error

    def _bind(self, sock: socket.socket, source: str) -> None:
        """Whatever is wrong with our own address, the host has no part in it."""
        try:
            sock.bind((source, 0))
        except OSError as error:
            self.close()
            reason = f"cannot connect from {source}: {in_words(error)}"
            raise ConnectionLost(outcome.CONNECT, reason, ours=True) from error

    def encrypt(self, encrypted: TlsSocket) -> None:
        """From here on everything goes through TLS."""
        self._end_patience()
        self._timeout_s = -1.0
        self.sock = encrypted  # type: ignore[assignment]  # as far as it is used here

    def close(self) -> None:
        self._end_patience()
        super().close()

    def _end_patience(self) -> None:
        if self.patience is not None:
            self.patience.close()
            self.patience = None

    def send(self, s: bytes | str) -> None:  # type: ignore[override]
        octets = s.encode(self.command_encoding) if isinstance(s, str) else s
        if len(self.reader):
            # It came before what we are about to send, and must not count as its answer.
            self.is_breached = True
            self.close()
            raise ConnectionLost(self.stage, "a reply came that nobody had asked for")
        self.write(octets, self._timeouts_s[self.stage])

    def write(self, octets: bytes, within_s: float) -> None:
        """All of `octets`, within `within_s` seconds in all.  Whether something came that nobody
        had asked for is not looked at."""
        if self.sock is None:
            raise ConnectionLost(self.stage, "connection is closed")
        try:
            # With patience the socket itself never waits, but for what the kernel has no room for.
            self.set_timeout(self.sock, within_s if self.patience is None else 0.0)
            # Nearly always one send() takes it all; gevent's sendall() asks the kernel for the
            # size of the socket's buffer each time.
            began = self._clock()
            if self.transcript is not None:
                self.transcript.sent(self.stage, octets)
            try:
                sent = self.sock.send(octets)
            except BlockingIOError:
                sent = 0
            self.moves += 1
            if sent < len(octets):
                self._write_rest(memoryview(octets)[sent:], began + within_s)
        except OSError as error:
            self.close()
            raise ConnectionLost(self.stage, in_words(error)) from error

    def deadline(self) -> float:
        """When the time of the present stage is over, if it begins now."""
        return self._clock() + self._timeouts_s[self.stage]

    def connected(self) -> socket.socket:
        if self.sock is None:
            raise ConnectionLost(self.stage, "connection is closed")
        return self.sock

    def _write_rest(self, octets: memoryview, deadline: float) -> None:
        left_s = deadline - self._clock()
        if left_s <= 0:
            raise TimeoutError("timed out")
        sock = self.connected()
        # Its timeout holds for the whole call, not for each part that is taken.
        self.set_timeout(sock, left_s)
        sock.sendall(octets)

    def set_timeout(self, sock: socket.socket, seconds: float) -> None:
        if seconds != self._timeout_s:
            sock.settimeout(seconds)
            self._timeout_s = seconds

    def getreply(self) -> tuple[int, bytes]:
        """For smtplib."""
        reply = self.read()
        return reply.code, reply.text.encode("utf-8", "replace")

    def read(self) -> Reply:
        """One reply within the stage's time, however slowly it trickles."""
        try:
            reply = self.reader.next()
            if reply is None:
                reply = self._await_reply()
        except ProtocolError as error:
            self.is_breached = True
            self.close()
            raise ConnectionLost(self.stage, str(error)) from error
        self.reply = reply
        return reply

    def _await_reply(self) -> Reply:
        left_s = self._timeouts_s[self.stage]
        deadline = self._clock() + left_s
        while True:
            received = self._receive(left_s)
            if received is not None:
                self.reader.feed(received)
                reply = self.reader.next()
                if reply is not None:
                    return reply
            left_s = deadline - self._clock()

    def _receive(self, left_s: float) -> bytes | None:
        """None when it turns out that nothing has come."""
        if self.sock is None:
            raise ConnectionLost(self.stage, "connection is closed")
        try:
            if left_s <= 0:
                raise TimeoutError("timed out")
            if self.patience is None:
                self.set_timeout(self.sock, left_s)
            elif not self.patience(left_s):
                raise TimeoutError("timed out")
            received = self.sock.recv(RECEIVE_BYTES)
            self.moves += 1
        except BlockingIOError:
            return None
        except OSError as error:
            self.close()
            raise ConnectionLost(self.stage, in_words(error)) from error
        if not received:
            self.close()
            raise ConnectionLost(self.stage, "closed by the other end")
        if self.transcript is not None:
            self.transcript.received(received)
        return received


def in_words(error: OSError | ValueError) -> str:
    """For people: "connection refused", not "[Errno 111] ..."."""
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, ssl.SSLError):
        return getattr(error, "verify_message", "") or error.reason or str(error)
    strerror = error.strerror if isinstance(error, OSError) else ""
    return (strerror or str(error) or type(error).__name__).lower()
