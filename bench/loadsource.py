"""A load generator that costs so little that it can share cores with what it measures.

As a program: `python -m gwrelay_bench.loadsource ADDR PORT LEDGER LOAD`, the relay, a file and the
Load as a JSON object.  What becomes of each message stands in the ledger; what went wrong is
printed as another object.

source.py is for who looks at each reply, and has greenlets; this one is for throughput.  Messages
differ in nothing but their recipient, r0@... and so on, by whose number the sink knows them again.
MAIL, RCPT and DATA leave in one write where PIPELINING is offered (RFC 2920).
"""

import re
import select
import socket
import ssl
import sys
import time
from collections import deque
from collections.abc import Generator
from json import dumps, loads
from pathlib import Path

from gwrelay_bench.ledger import ACCEPTED, ANSWERED, Ledger
from gwrelay_bench.load import Load
from gwrelay_bench.machine import raise_file_limit
from gwrelay_bench.submission import text_content, wire_content
from gwrelay_bench.wire import Wire

#: The last line of a reply, which is whole.
_LAST_LINE = re.compile(rb"^(\d{3})(?: .*)?\r\n", re.MULTILINE)
#: Of what went wrong, so many are told; more sessions lost than this, and there is no relay.
_TOLD, _MOST_LOST = 10, 100

#: What a session says is sent by it; it is given what was received.
_Talk = Generator[None, bytes, None]


class _Lost(Exception):
    """The relay hung up, or said what ends a session."""


class _Session:
    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.talk: _Talk
        #: The message that it is about.
        self.number: int | None = None


class LoadSource:
    def __init__(self, relay: tuple[str, int], load: Load, ledger: Ledger) -> None:
        self._relay = relay
        self._load = load
        self._ledger = ledger
        self._content = wire_content(text_content(load.size_bytes))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE
        self._poll = select.epoll()
        self._sessions: dict[int, _Session] = {}
        #: Those that wait for the time of the next message.
        self._idle: deque[_Session] = deque()
        self._taken = 0
        self._began_at = 0.0
        #: The replies to an envelope when all is well: mostly the same bytes each time.
        self._go_ahead = b""
        self.lost = 0
        self.said: set[str] = set()

    def run(self) -> None:
        """Returns when each message has its answer, or there is no relay."""
        self._began_at = self._ledger.began_at = time.time()
        for _ in range(min(self._load.sessions, self._load.messages)):
            self._open()
        counters, messages = self._ledger.counters, self._load.messages
        while counters[ANSWERED] < messages and self.lost <= _MOST_LOST:
            for descriptor, event in self._poll.poll(self._idle_s()):
                session = self._sessions.get(descriptor)
                if session is not None:
                    self._serve(session, event)
            while self._idle and self._is_due():
                self._go_on(self._idle.popleft(), b"")
        for session in list(self._sessions.values()):
            session.wire.close()

    def _serve(self, session: _Session, event: int) -> None:
        wire = session.wire
        try:
            if event & select.EPOLLOUT:
                wire.flush()
                if not wire.unsent:
                    self._go_on(session, b"")
                return
            words = wire.receive()
        except OSError as error:
            self._lose(session, str(error))
            return
        if words:
            self._go_on(session, words)
        elif words is not None:
            self._lose(session, "the relay closed the connection")

    def _go_on(self, session: _Session, words: bytes) -> None:
        try:
            session.talk.send(words)
        except StopIteration:
            self._close(session)
        except (OSError, _Lost) as error:
            self._lose(session, str(error))

    def _open(self) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        # Whether it worked is seen by what can be received.
        sock.connect_ex(self._relay)
        session = _Session(Wire(sock, self._poll))
        session.talk = self._talk(session)
        next(session.talk)
        self._sessions[session.wire.descriptor] = session

    def _lose(self, session: _Session, why: str) -> None:
        self.lost += 1
        self._tell(f"session lost: {why}")
        if session.number is not None:
            self._ledger.counters[ANSWERED] += 1
        self._close(session)

    def _close(self, session: _Session) -> None:
        """Another one takes its place while there is mail."""
        del self._sessions[session.wire.descriptor]
        session.wire.close()
        if self._taken < self._load.messages and self.lost <= _MOST_LOST:
            self._open()

    def _tell(self, text: str) -> None:
        if len(self.said) < _TOLD:
            self.said.add(text)

    def _is_due(self) -> bool:
        """Whether the next message's time has come; also when there is none."""
        if self._taken >= self._load.messages or not self._load.rate_per_s:
            return True
        return time.time() >= self._load.due_at(self._taken, self._began_at)

    def _idle_s(self) -> float:
        """Seconds that poll may take."""
        if not self._idle:
            return -1
        return max(0.0, self._load.due_at(self._taken, self._began_at) - time.time())

    def _talk(self, session: _Session) -> _Talk:
        """All of a session."""
        wire, load = session.wire, self._load
        _demand(b"2", (yield from _replies(1)))
        offered = yield from self._greet(wire)
        if load.encrypts:
            wire.send(b"STARTTLS\r\n")
            _demand(b"2", (yield from _replies(1)))
            wire.encrypt(self._context, server_side=False)
            offered = yield from self._greet(wire)
        pipelines = b"PIPELINING" in offered
        sent = 0
        while not load.per_connection or sent < load.per_connection:
            while not self._is_due():
                self._idle.append(session)
                yield
            if self._taken >= load.messages:
                break
            number = session.number = self._taken
            self._taken += 1
            yield from self._submit(wire, number, pipelines)
            session.number = None
            sent += 1
        wire.send(b"QUIT\r\n")
        yield from _replies(1)

    def _greet(self, wire: Wire) -> Generator[None, bytes, bytes]:
        """EHLO, and what is offered."""
        wire.send(b"EHLO source.example\r\n")
        offered = yield from _replies(1)
        _demand(b"2", offered)
        return offered.upper()

    def _submit(self, wire: Wire, number: int, pipelines: bool) -> _Talk:
        """One transaction.  Whoever does not take the message loses the session with it."""
        ledger, clock = self._ledger, time.time
        yield from self._envelope(wire, number, pipelines)
        wire.send(self._content)
        while wire.unsent:
            yield
        ledger.sent_at[number] = clock()
        words = yield
        if words[:4] != b"250 " or words[-1:] != b"\n":
            words = yield from _replies(1, words)
        ledger.answered_at[number] = clock()
        _demand(b"250", words)
        ledger.counters[ANSWERED] += 1
        ledger.counters[ACCEPTED] += 1

    def _envelope(self, wire: Wire, number: int, pipelines: bool) -> _Talk:
        mail = f"MAIL FROM:<s@source.example> SIZE={self._load.size_bytes}\r\n"
        rcpt = f"RCPT TO:<r{number}@{self._load.domain(number)}>\r\n"
        if not pipelines:
            for command, good in ((mail, b"250"), (rcpt, b"250"), ("DATA\r\n", b"354")):
                wire.send(command.encode())
                _demand(good, (yield from _replies(1)))
            return
        wire.send(f"{mail}{rcpt}DATA\r\n".encode())
        words = yield
        if words != self._go_ahead:
            words = yield from _replies(3, words)
            if [match[1] for match in _LAST_LINE.finditer(words)] != [b"250", b"250", b"354"]:
                raise _Lost(f"refused: {_shown(words)}")
            self._go_ahead = words


def _replies(count: int, words: bytes = b"") -> Generator[None, bytes, bytes]:
    """So many whole replies, of which `words` are the beginning."""
    while words[-1:] != b"\n" or len(_LAST_LINE.findall(words)) < count:
        words += yield
    return words


def _demand(code: bytes, reply: bytes) -> None:
    if not reply.startswith(code):
        raise _Lost(f"refused: {_shown(reply)}")


def _shown(reply: bytes) -> str:
    return reply.decode("ascii", "replace").strip().replace("\r\n", " | ")


if __name__ == "__main__":
    address, port, path, words = sys.argv[1:]
    load = Load(**loads(words))
    raise_file_limit()
    source = LoadSource((address, int(port)), load, Ledger(Path(path), load.messages))
    source.run()
    print(dumps({"cpu_s": time.process_time(), "lost": source.lost, "said": sorted(source.said)}))
