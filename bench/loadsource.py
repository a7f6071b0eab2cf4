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
from gwrelay_bench.machine import die_with_parent, let_others_run, raise_file_limit
from gwrelay_bench.submission import text_content, wire_content
from gwrelay_bench.wire import Wire

#: The last line of a reply, which is whole.
_LAST_LINE = re.compile(rb"^(\d{3})(?: .*)?\r\n", re.MULTILINE)
#: Of what went wrong, so many are told; more sessions lost than this, and there is no relay.
_TOLD, MOST_LOST = 10, 100

#: What a session says is sent by it; it is given what was received.
Talk = Generator[None, bytes, None]


class Lost(Exception):
    """The relay hung up, or said what ends a session."""


class Session:
    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.talk: Talk
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
        self._sessions: dict[int, Session] = {}
        #: Those that wait for the time of the next message.
        self._idle: deque[Session] = deque()
        self._taken = 0
        self._began_at = 0.0
        self._cpu_before_s = 0.0
        #: The replies to an envelope when all is well: mostly the same bytes each time.
        self._go_ahead = b""
        self.lost = 0
        self.said: set[str] = set()

    def run(self) -> None:
        """Returns when each message has its answer, or there is no relay."""
        self._cpu_before_s = time.process_time()
        self._began_at = self._ledger.began_at = time.time()
        for _ in range(min(self._load.sessions, self._load.messages)):
            self._open()
        counters, messages = self._ledger.counters, self._load.messages
        while counters[ANSWERED] < messages and not self._gives_up:
            for descriptor, event in self._poll.poll(self._idle_s()):
                session = self._sessions.get(descriptor)
                if session is not None:
                    self._serve(session, event)
            while self._idle and self._is_due():
                self._go_on(self._idle.popleft(), b"")
        for session in list(self._sessions.values()):
            session.wire.close()

    @property
    def cpu_s(self) -> float:
        """What this process has used since `run` began: what it took to start is not the load's."""
        return time.process_time() - self._cpu_before_s

    @property
    def _gives_up(self) -> bool:
        return self.lost > MOST_LOST

    def _serve(self, session: Session, event: int) -> None:
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

    def _go_on(self, session: Session, words: bytes) -> None:
        try:
            session.talk.send(words)
        except StopIteration:
            self._close(session)
        except (OSError, Lost) as error:
            self._lose(session, str(error))

    def _open(self) -> None:
        sock = socket.socket(socket.AF_INET6 if ":" in self._relay[0] else socket.AF_INET)
        sock.setblocking(False)
        # Whether it worked is seen by what can be received.
        sock.connect_ex(self._relay)
        session = Session(Wire(sock, self._poll))
        session.talk = self._talk(session)
        next(session.talk)
        self._sessions[session.wire.descriptor] = session

    def _lose(self, session: Session, why: str) -> None:
        self.lost += 1
        self._tell(f"session lost: {why}")
        if session.number is not None:
            self._ledger.counters[ANSWERED] += 1
        self._close(session)

    def _close(self, session: Session) -> None:
        """Another one takes its place while there is mail."""
        del self._sessions[session.wire.descriptor]
        session.wire.close()
        if self._taken < self._load.messages and not self._gives_up:
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

    def _talk(self, session: Session) -> Talk:
        """All of a session."""
        wire, load = session.wire, self._load
        offered = yield from self._begin(wire)
        pipelines = load.pipelines and b"PIPELINING" in offered
        sent = 0
        while not load.per_connection or sent < load.per_connection:
            while not self._is_due():
                self._idle.append(session)
                yield
            if self._taken >= load.messages:
                break
            number = session.number = self._taken
            self._taken += 1
            yield from self._submit(session, number, pipelines)
            session.number = None
            sent += 1
        wire.send(b"QUIT\r\n")
        yield from replies(1)

    def _begin(self, wire: Wire) -> Generator[None, bytes, bytes]:
        """All until the first message; what is offered in the end."""
        heard = b""
        if self._load.encrypts_at_once:
            wire.await_room()
            yield
            wire.encrypt(self._context, server_side=False)
            # Begins the handshake, which nothing that is said would do; mostly that is all.
            heard = wire.receive() or b""
        demand(b"2", (yield from replies(1, heard)))
        offered = yield from self._greet(wire)
        if not self._load.encrypts:
            return offered
        wire.send(b"STARTTLS\r\n")
        demand(b"2", (yield from replies(1)))
        wire.encrypt(self._context, server_side=False)
        return (yield from self._greet(wire))

    def _greet(self, wire: Wire) -> Generator[None, bytes, bytes]:
        """EHLO, and what is offered."""
        wire.send(b"EHLO source.example\r\n")
        offered = yield from replies(1)
        demand(b"2", offered)
        return offered.upper()

    def _submit(self, session: Session, number: int, pipelines: bool) -> Talk:
        """One transaction.  Whoever does not take the message loses the session with it."""
        wire, ledger, clock = session.wire, self._ledger, time.time
        yield from self._envelope(wire, number, pipelines)
        wire.send(self._content)
        while wire.unsent:
            yield
        ledger.sent_at[number] = clock()
        words = yield
        if words[:4] != b"250 " or words[-1:] != b"\n":
            words = yield from replies(1, words)
        ledger.answered_at[number] = clock()
        demand(b"250", words)
        ledger.counters[ANSWERED] += 1
        ledger.counters[ACCEPTED] += 1

    def _envelope(self, wire: Wire, number: int, pipelines: bool) -> Talk:
        mail = f"MAIL FROM:<s@source.example> SIZE={self._load.size_bytes}\r\n"
        rcpt = f"RCPT TO:<r{number}@{self._load.domain(number)}>\r\n"
        if not pipelines:
            for command, good in ((mail, b"250"), (rcpt, b"250"), ("DATA\r\n", b"354")):
                wire.send(command.encode())
                demand(good, (yield from replies(1)))
            return
        wire.send(f"{mail}{rcpt}DATA\r\n".encode())
        words = yield
        if words != self._go_ahead:
            words = yield from replies(3, words)
            if codes(words) != ["250", "250", "354"]:
                raise Lost(f"refused: {shown(words)}")
            self._go_ahead = words


def replies(count: int, words: bytes = b"") -> Generator[None, bytes, bytes]:
    """So many whole replies, of which `words` are the beginning."""
    while words[-1:] != b"\n" or len(_LAST_LINE.findall(words)) < count:
        words += yield
    return words


def codes(words: bytes) -> list[str]:
    """Of whole replies."""
    return [match[1].decode() for match in _LAST_LINE.finditer(words)]


def demand(code: bytes, reply: bytes) -> None:
    if not reply.startswith(code):
        raise Lost(f"refused: {shown(reply)}")


def shown(reply: bytes) -> str:
    return reply.decode("ascii", "replace").strip().replace("\r\n", " | ")


if __name__ == "__main__":
    address, port, path, words = sys.argv[1:]
    load = Load(**loads(words))
    die_with_parent()
    raise_file_limit()
    let_others_run()
    source = LoadSource((address, int(port)), load, Ledger(Path(path), load.messages))
    source.run()
    print(dumps({"cpu_s": source.cpu_s, "lost": source.lost, "said": sorted(source.said)}))
