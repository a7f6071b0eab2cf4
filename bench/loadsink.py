"""A sink for throughput, of one process: takes all mail, and knows what came, and what came again.

As a program: `python -m gwrelay_bench.loadsink RECEPTION LEDGER LOAD`, the Reception and the Load
as JSON objects; prints the port it has.  What arrives stands in the ledger; content is compared
with what was sent, behind whatever fields were put before it.

sink.py is for who wants each arrival, faults and greenlets.
"""

import re
import select
import socket
import ssl
import sys
import time
from collections import deque
from json import loads
from pathlib import Path
from typing import NamedTuple

from gwrelay_bench.ledger import AGAIN, ARRIVED, ENCRYPTED, OPEN, SESSIONS, SPOILT, STRANGE, Ledger
from gwrelay_bench.load import Load, Reception
from gwrelay_bench.loadtalk import Conversation
from gwrelay_bench.machine import raise_file_limit
from gwrelay_bench.submission import text_content
from gwrelay_bench.wire import Wire

_BACKLOG = 4096
_OURS = re.compile(rb"RCPT TO:<r(\d+)@", re.IGNORECASE)


class _Session(NamedTuple):
    wire: Wire
    talk: Conversation


class LoadSink:
    def __init__(self, reception: Reception, load: Load, ledger: Ledger) -> None:
        self._arrived_at = ledger.arrived_at
        self._counters = ledger.counters
        self._content = text_content(load.size_bytes)
        self._delay_s = reception.delay_s
        self._context: ssl.SSLContext | None = None
        if reception.certificate:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(reception.certificate)
        self._poll = select.epoll()
        self._sessions: dict[int, _Session] = {}
        #: (when, by whom, what) is to be said.
        self._later: deque[tuple[float, _Session, bytes]] = deque()
        self._listeners: dict[int, socket.socket] = {}
        self.port = reception.port
        for address in reception.addresses:
            listener = socket.create_server((address, self.port), backlog=_BACKLOG)
            listener.setblocking(False)
            self.port = int(listener.getsockname()[1])
            self._listeners[listener.fileno()] = listener
            self._poll.register(listener.fileno(), select.EPOLLIN)

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
                _, session, words = self._later.popleft()
                self._send(session, words)

    def _idle_s(self) -> float:
        return max(0.0, self._later[0][0] - time.monotonic()) if self._later else -1

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return
        talk = Conversation(self._arrive, demands_tls=self._context is not None)
        session = _Session(Wire(sock, self._poll), talk)
        self._sessions[session.wire.descriptor] = session
        self._counters[SESSIONS] += 1
        self._counters[OPEN] += 1
        self._say(session, talk.greeting)

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
        if not words:
            return
        if self._delay_s:
            self._later.append((time.monotonic() + self._delay_s, session, words))
        else:
            self._send(session, words)

    def _send(self, session: _Session, words: bytes) -> None:
        if session.wire.descriptor not in self._sessions:
            return  # it hung up meanwhile
        try:
            session.wire.send(words)
        except OSError:
            self._close(session)
            return
        if session.talk.encrypts and self._context is not None:
            session.talk.encrypts = False
            session.wire.encrypt(self._context, server_side=True)
            self._counters[ENCRYPTED] += 1
        elif session.talk.closes and not session.wire.unsent:
            self._close(session)

    def _close(self, session: _Session) -> None:
        del self._sessions[session.wire.descriptor]
        session.wire.close()
        self._counters[OPEN] -= 1

    def _arrive(self, envelope: bytes, content: bytes, size: int) -> None:
        """`size` bytes of `content` are the message."""
        counters, arrived_at = self._counters, self._arrived_at
        numbers = _OURS.findall(envelope)
        for text in numbers:
            number = int(text)
            if number >= len(arrived_at):
                counters[STRANGE] += 1
            elif arrived_at[number]:
                counters[AGAIN] += 1
            else:
                arrived_at[number] = time.time()
                counters[ARRIVED] += 1
        if not numbers:
            counters[STRANGE] += 1
        start = size - len(self._content)
        if start < 0 or not content.startswith(self._content, start):
            counters[SPOILT] += 1


if __name__ == "__main__":
    raise_file_limit()
    load = Load(**loads(sys.argv[3]))
    ledger = Ledger(Path(sys.argv[2]), load.messages)
    sink = LoadSink(Reception(**loads(sys.argv[1])), load, ledger)
    print(sink.port, flush=True)
    sink.run()
