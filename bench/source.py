"""A load generator: kept SMTP sessions that hand over messages as fast as they are answered.

`Source(address, port, sessions=20).run(submissions)` gives one Receipt for each Submission.  What
people are given is `gwrelay bench source` (sending.py), which costs a fifth of this.

MAIL, RCPT and DATA leave in one write when the server offers PIPELINING (RFC 2920).  Uses
gevent's own sockets, so it works the same in a patched process and in a plain one.
"""

import socket as flags
import time
from collections.abc import Callable, Iterable, Iterator

import gevent
from gevent import socket

from gwrelay_bench.submission import (
    Receipt,
    Submission,
    envelope_commands,
    text_content,
    wire_content,
)

_RECV_BYTES = 64 * 1024


class SessionLost(Exception):
    """The server hung up, or said what is no SMTP reply."""


class SourceSession:
    """One connection that has been greeted and has said EHLO."""

    def __init__(self, address: str, port: int, *, hostname: str, timeout_s: float) -> None:
        self._socket = socket.create_connection((address, port), timeout_s)
        self._socket.setsockopt(flags.IPPROTO_TCP, flags.TCP_NODELAY, 1)
        self._buffer = b""
        self._expect("greeting")
        self._socket.sendall(f"EHLO {hostname}\r\n".encode())
        lines = self._expect("EHLO").split("\n")[1:]
        self._extensions = frozenset(line.split()[0].upper() for line in lines if line)

    def submit(self, submission: Submission, clock: Callable[[], float]) -> Receipt:
        """Hand one message over.  Raises SessionLost or OSError when the session breaks."""
        replies = self._ask(envelope_commands(submission, self._extensions))
        refused = tuple(
            (recipient, f"{code} {text}")
            for recipient, (code, text) in zip(submission.recipients, replies[1:-1], strict=True)
            if code not in (250, 251)
        )
        code, text = replies[-1]
        sent_at = clock()
        if code == 354:
            nobody = len(refused) == len(submission.recipients)
            self._socket.sendall(b".\r\n" if nobody else wire_content(submission.content))
            sent_at = clock()
            code, text = self._reply()
        elif replies[0][0] == 250:
            self._ask([b"RSET\r\n"])
        return Receipt(submission, sent_at, clock(), code, text, refused)

    def close(self) -> None:
        """QUIT, without waiting for the answer."""
        try:
            self._socket.sendall(b"QUIT\r\n")
        finally:
            self._socket.close()

    def _ask(self, commands: list[bytes]) -> list[tuple[int, str]]:
        if "PIPELINING" in self._extensions:
            self._socket.sendall(b"".join(commands))
            return [self._reply() for _ in commands]
        replies = []
        for command in commands:
            self._socket.sendall(command)
            replies.append(self._reply())
        return replies

    def _expect(self, what: str) -> str:
        code, text = self._reply()
        if not 200 <= code < 300:
            raise SessionLost(f"{what} answered {code} {text}")
        return text

    def _reply(self) -> tuple[int, str]:
        """The next reply: its code, and its lines' text joined by newlines."""
        lines = []
        while True:
            end = self._buffer.find(b"\r\n")
            if end < 0:
                chunk = self._socket.recv(_RECV_BYTES)
                if not chunk:
                    raise SessionLost("the server closed the connection")
                self._buffer += chunk
                continue
            line = self._buffer[:end]
            self._buffer = self._buffer[end + 2 :]
            lines.append(line[4:].decode("utf-8", "replace"))
            if line[3:4] != b"-":
                return self._code(line), "\n".join(lines)

    def _code(self, line: bytes) -> int:
        if not line[:3].isdigit():
            raise SessionLost(f"not an SMTP reply: {line!r}")
        return int(line[:3])


class Source:
    """`sessions` at a time; each takes the next submission once the last was answered.

    `kept` false opens a connection for every message.
    """

    def __init__(
        self,
        address: str,
        port: int,
        *,
        sessions: int = 20,
        kept: bool = True,
        hostname: str = "source.example",
        timeout_s: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._address = address
        self._port = port
        self._sessions = sessions
        self._kept = kept
        self._hostname = hostname
        self._timeout_s = timeout_s
        self._clock = clock

    def run(
        self,
        submissions: Iterable[Submission],
        on_receipt: Callable[[Receipt], None] | None = None,
    ) -> list[Receipt]:
        """Send them all; returns when the last was answered, receipts in order of answer."""
        receipts: list[Receipt] = []
        waiting = iter(submissions)

        def note(receipt: Receipt) -> None:
            receipts.append(receipt)
            if on_receipt is not None:
                on_receipt(receipt)

        workers = [gevent.spawn(self._work, waiting, note) for _ in range(self._sessions)]
        try:
            gevent.joinall(workers, raise_error=True)
        finally:
            gevent.killall(workers)
        return receipts

    def _work(self, waiting: Iterator[Submission], note: Callable[[Receipt], None]) -> None:
        """One session after another until nothing waits; a broken one costs its message only."""
        session = None
        for submission in waiting:
            try:
                session = session or self._open()
                note(session.submit(submission, self._clock))
                if not self._kept:
                    session.close()
                    session = None
            except (OSError, SessionLost) as error:
                session = None
                now = self._clock()
                note(Receipt(submission, now, now, 0, f"session lost: {error}"))
        if session is not None:
            session.close()

    def _open(self) -> SourceSession:
        return SourceSession(
            self._address, self._port, hostname=self._hostname, timeout_s=self._timeout_s
        )


def load(messages: int, size_bytes: int, recipients: int, domain: str) -> Iterator[Submission]:
    """`messages` alike but for the reverse-path, from `s0@source.example` on."""
    content = text_content(size_bytes)
    mailboxes = tuple(f"r{number}@{domain}" for number in range(recipients))
    for number in range(messages):
        yield Submission(f"s{number}@source.example", mailboxes, content)
