"""A server that takes connections and lets somebody else converse: plain epoll, one process.

What the sinks have in common that are to cost little (see wire.py): listening, TLS, replies that
are late.  Counts connections and nothing else.
"""

import heapq
import select
import socket
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import MutableSequence, Sequence
from itertools import count
from typing import Protocol

from gwrelay_bench.ledger import ENCRYPTED, OPEN, SESSIONS
from gwrelay_bench.wire import Wire

_BACKLOG = 4096


class Talk(Protocol):
    """The server's side of a connection: bytes in, bytes out."""

    greeting: bytes
    #: Hang up once what it said is sent; begin TLS then.
    closes: bool
    encrypts: bool
    #: Seconds that what it said last is to be held back.
    delay_s: float

    def receive(self, words: bytes) -> bytes:
        """Every reply that `words` complete."""


class _Session:
    def __init__(self, wire: Wire, talk: Talk) -> None:
        self.wire = wire
        self.talk = talk
        #: Until then (time.monotonic()) something of it is held back, and all that follows.
        self.free_at = 0.0


class Acceptor(ABC):
    """`counters` has places for SESSIONS, OPEN and ENCRYPTED (see ledger.py)."""

    def __init__(
        self,
        addresses: Sequence[str],
        port: int,
        counters: MutableSequence[int] | memoryview,
        context: ssl.SSLContext | None,
        *,
        encrypts_at_once: bool = False,
        reuse_port: bool = False,
    ) -> None:
        """`port` is of all addresses; 0 is any that is free.  `reuse_port`: other processes may
        have the same one, and take turns."""
        self._counters = counters
        self._context = context
        self._encrypts_at_once = encrypts_at_once
        self._poll = select.epoll()
        self._sessions: dict[int, _Session] = {}
        #: (when, one by one, by whom, what) is to be said, a heap.
        self._later: list[tuple[float, int, _Session, bytes]] = []
        self._turns = count()
        self._listeners: dict[int, socket.socket] = {}
        self.port = port
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            listener = socket.create_server(
                (address, self.port), family=family, backlog=_BACKLOG, reuse_port=reuse_port
            )
            listener.setblocking(False)
            self.port = int(listener.getsockname()[1])
            self._listeners[listener.fileno()] = listener
            self._poll.register(listener.fileno(), select.EPOLLIN)

    @abstractmethod
    def _converse(self) -> Talk:
        """With one more client."""

    def run(self) -> None:
        """Until this process is ended."""
        while True:
            for descriptor, event in self._poll.poll(self._idle_s()):
                session = self._sessions.get(descriptor)
                if session is not None:
                    self._serve(session, event)
                elif descriptor in self._listeners:
                    self._accept(self._listeners[descriptor])
            while self._later and self._later[0][0] <= time.monotonic():
                _, _, session, words = heapq.heappop(self._later)
                self._send(session, words)

    def _idle_s(self) -> float:
        return max(0.0, self._later[0][0] - time.monotonic()) if self._later else -1

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return
        session = _Session(Wire(sock, self._poll), self._converse())
        self._sessions[session.wire.descriptor] = session
        self._counters[SESSIONS] += 1
        self._counters[OPEN] += 1
        if not self._encrypts_at_once or self._encrypt(session):
            self._say(session, session.talk.greeting)

    def _serve(self, session: _Session, event: int) -> None:
        wire = session.wire
        try:
            if event & select.EPOLLOUT:
                wire.flush()
                if session.talk.closes and not wire.unsent:
                    self._close(session)
                return
            words = wire.receive()
        except OSError:
            self._close(session)
            return
        if words:
            self._say(session, session.talk.receive(words))
        elif words is not None:
            self._close(session)

    def _say(self, session: _Session, words: bytes) -> None:
        talk = session.talk
        if not words and not talk.closes:
            return
        if not talk.delay_s and not session.free_at:
            self._send(session, words)
            return
        session.free_at = max(session.free_at, time.monotonic() + talk.delay_s)
        heapq.heappush(self._later, (session.free_at, next(self._turns), session, words))

    def _send(self, session: _Session, words: bytes) -> None:
        if self._sessions.get(session.wire.descriptor) is not session:
            return  # it hung up meanwhile
        if session.free_at and session.free_at <= time.monotonic():
            session.free_at = 0.0
        try:
            if words:
                session.wire.send(words)
        except OSError:
            self._close(session)
            return
        if session.talk.encrypts:
            session.talk.encrypts = False
            self._encrypt(session)
        elif session.talk.closes and not session.wire.unsent:
            self._close(session)

    def _encrypt(self, session: _Session) -> bool:
        """False when the client is gone already."""
        assert self._context is not None
        try:
            session.wire.encrypt(self._context, server_side=True)
        except OSError:
            self._close(session)
            return False
        self._counters[ENCRYPTED] += 1
        return True

    def _close(self, session: _Session) -> None:
        del self._sessions[session.wire.descriptor]
        session.wire.close()
        self._counters[OPEN] -= 1


def server_context(certificate: str) -> ssl.SSLContext:
    """`certificate` is a file that has the key, too.  OSError when it cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context
