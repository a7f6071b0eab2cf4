"""One side of `gwrelay bench cost`, as a process of its own that strace and valgrind can watch.

    python -m gwrelay_bench.costside JOB

JOB is a Job in JSON.  What accepts prints its port first.  In the end a line of JSON: what the
messages took, from the first to the last.  The process ends at once then, whatever else is left.
"""

from gevent import monkey  # noqa: TID251  (a program of its own: it patches as __main__ does)

if __name__ == "__main__":
    monkey.patch_all()

import gc
import json
import os
import resource
import smtplib
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gevent
import greenlet
from gevent.event import Event
from gevent.server import StreamServer

from gwrelay.listener import Doors, Listener
from gwrelay.message.envelope import Envelope, Recipient
from gwrelay.mx.calculator import MXCalculator
from gwrelay.notation import Endpoint, read_network
from gwrelay.processes.board import Board
from gwrelay.processes.ports import open_ports
from gwrelay.queue.mailqueue import Queue
from gwrelay.queue.spoolstore import SpoolStore, open_spool
from gwrelay.relay.limits import LimitPolicy, SiteLimits
from gwrelay.relay.manager import RelayStateHelper, SmartHostESMTPRelayingManager
from gwrelay.relay.relayer import ESMTPManagedRelayerFactory, RelayerSettings
from gwrelay.relay.routes import NextHop, Routes
from gwrelay.smtp.session import Policy
from gwrelay.waiting import Gate, Patience, for_greenlets
from gwrelay_bench.spooling import SEGMENT_BYTES

#: Whom the messages are from and to.
SENDER, RECIPIENT = "source@source.example", "user@sink.example"
HOST, OURS = "127.0.0.1", "gw.example"
_WRITERS = 50
_RECEIVE_BYTES = 64 * 1024
_REPLIES = b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go ahead\r\n"


class Job(NamedTuple):
    #: A part of the way and who goes it: a key of SIDES.
    side: str
    #: How many are measured, of how many that there are.
    messages: int
    present: int
    sessions: int
    content: str
    directory: str
    #: Where the next hop listens.
    port: int
    #: Count switches between greenlets, which takes time of its own.
    counts_switches: bool = False


class Lap:
    """From begin() to the last of `messages`."""

    def __init__(self, job: Job) -> None:
        self._left = job.messages
        self._counts_switches = job.counts_switches
        self._switches = 0
        self._over = Event()
        self._began = resource.getrusage(resource.RUSAGE_SELF)

    def begin(self) -> None:
        # As the service does at its start: what lives now is not looked at again.
        gc.collect()
        gc.freeze()
        if self._counts_switches:
            greenlet.settrace(self._note_switch)
        self._began = resource.getrusage(resource.RUSAGE_SELF)

    def _note_switch(self, _event: str, _greenlets: Any) -> None:
        self._switches += 1

    def done(self) -> None:
        """One more is through."""
        self._left -= 1
        if self._left:
            return
        used = resource.getrusage(resource.RUSAGE_SELF)
        greenlet.settrace(None)
        user_s = used.ru_utime - self._began.ru_utime
        system_s = used.ru_stime - self._began.ru_stime
        say({"user_s": user_s, "system_s": system_s, "switches": self._switches})
        self._over.set()

    @property
    def is_over(self) -> bool:
        return self._left <= 0

    def await_end(self, is_over: Callable[[], bool] = lambda: True) -> None:
        """And that of what comes after it.  Nothing is looked for meanwhile: that would count."""
        self._over.wait()
        while not is_over():
            gevent.sleep(0.01)


def say(line: Any) -> None:
    print(json.dumps(line), flush=True)


def accept(job: Job) -> None:
    """Listener, session, queue, spool: from a client's bytes to its 250."""
    lap = Lap(job)
    listener = _listen(_open_queue(job), lap.done)
    lap.begin()
    say(listener.endpoint.port)
    lap.await_end(lambda: listener.is_empty)


def deliver(job: Job) -> None:
    """Manager, relayers, transactions, settlements: from due to done."""
    lap = Lap(job)
    queue = _open_queue(job)
    _fill(queue, job)
    lap.begin()
    _relay(queue, job, lap.done)
    lap.await_end()


def through(job: Job) -> None:
    """Both in one process, as `serve` has them."""
    lap = Lap(job)
    queue = _open_queue(job)
    listener = _listen(queue, lambda: None)
    lap.begin()
    _relay(queue, job, lap.done)
    say(listener.endpoint.port)
    lap.await_end(lambda: listener.is_empty)


def accept_barely(job: Job) -> None:
    """What none can do without: to read, to write it to a file, to answer.  No sync."""
    lap = Lap(job)
    path = os.path.join(job.directory, "bare")
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    open_sessions = 0

    def serve(sock: socket.socket, _: object) -> None:
        nonlocal open_sessions
        open_sessions += 1
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.send(b"220 bare ESMTP\r\n")
        sock.recv(_RECEIVE_BYTES)
        sock.send(b"250-bare\r\n250 PIPELINING\r\n")
        while sock.recv(_RECEIVE_BYTES).endswith(b"DATA\r\n"):
            sock.send(_REPLIES)
            content = sock.recv(_RECEIVE_BYTES)
            while not content.endswith(b"\r\n.\r\n"):
                content += sock.recv(_RECEIVE_BYTES)
            os.write(descriptor, content)
            sock.send(b"250 2.0.0 ok\r\n")
            lap.done()
        open_sessions -= 1

    server = StreamServer((HOST, 0), serve)
    server.start()
    lap.begin()
    say(server.server_port)
    lap.await_end(lambda: not open_sessions)


def deliver_barely(job: Job) -> None:
    """MAIL, RCPT and DATA in one write, the content in the next."""
    envelope = f"MAIL FROM:<{SENDER}>\r\nRCPT TO:<{RECIPIENT}>\r\nDATA\r\n".encode()
    content = job.content.encode() + b".\r\n"

    def send(session: smtplib.SMTP, lap: Lap) -> None:
        sock = session.sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while not lap.is_over:
            sock.send(envelope)
            received = b""
            while received.count(b"\n") < 3:
                received += sock.recv(4096)
            sock.send(content)
            sock.recv(4096)
            lap.done()

    _over_sessions(job, send)


def sendmail(job: Job) -> None:
    """Stock smtplib, one message after the other."""
    content = job.content.encode()

    def send(session: smtplib.SMTP, lap: Lap) -> None:
        while not lap.is_over:
            session.sendmail(SENDER, RECIPIENT, content)
            lap.done()

    _over_sessions(job, send)


SIDES: dict[str, Callable[[Job], None]] = {
    "accept": accept,
    "deliver": deliver,
    "through": through,
    "accept bare": accept_barely,
    "deliver bare": deliver_barely,
    "deliver sendmail": sendmail,
}
#: Those that say where they listen, and wait for messages to come in.
ACCEPTING = ("accept", "accept bare", "through")


def _over_sessions(job: Job, send: Callable[[smtplib.SMTP, Lap], None]) -> None:
    sessions = [smtplib.SMTP(HOST, job.port, local_hostname=OURS) for _ in range(job.sessions)]
    for session in sessions:
        session.ehlo()
    lap = Lap(job)
    lap.begin()
    gevent.joinall([gevent.spawn(send, one, lap) for one in sessions], count=1, raise_error=True)


def _open_queue(job: Job) -> Queue:
    log = open_spool(
        Path(job.directory) / "spool", **for_greenlets(), lazy=True, segment_bytes=SEGMENT_BYTES
    )
    queue = Queue(SpoolStore(log), hostname=OURS, resident_bytes=1 << 40)
    gevent.spawn(log.run, threading.Event())
    return queue


def _listen(queue: Queue, accepted: Callable[[], None]) -> Listener:
    doors = Doors(
        Policy(OURS, 10 * 1024 * 1024),
        relay_from=read_network("127.0.0.0/8"),
        client_timeout_s=300.0,
        max_connections=1000,
        column=Board(-1, 1).column(0),
        intake=lambda: None,
        accepted=lambda *_: accepted(),
        handshakes=Counter(),
    )
    [port] = open_ports((Endpoint(HOST, 0),), 0.0)
    listener = Listener(port, queue, doors)
    listener.start()
    return listener


def _fill(queue: Queue, job: Job) -> None:
    numbers = iter(range(job.present))
    envelope, content = Envelope(SENDER, (Recipient(RECIPIENT),)), job.content.encode()

    def write() -> None:
        for _ in numbers:
            queue.add_message(envelope, content)

    gevent.joinall([gevent.spawn(write) for _ in range(_WRITERS)], raise_error=True)


def _relay(queue: Queue, job: Job, done: Callable[[], None]) -> None:
    """Over as many sessions as there are senders, each for all of them."""
    settings = RelayerSettings(
        OURS, max_messages_per_connection=job.present, patience=Patience, event=Gate
    )
    manager = SmartHostESMTPRelayingManager(
        queue,
        calculator=MXCalculator(None, time.time),
        routes=Routes((NextHop(HOST, job.port),)),
        factory=ESMTPManagedRelayerFactory(settings),
        # More than the site may have: a pool that is full sends those home who idle.
        max_connections=2 * job.sessions,
        limits=LimitPolicy(SiteLimits(job.sessions, job.sessions)),
        ended=lambda *_: done(),
    )
    gevent.spawn(RelayStateHelper(manager).run, threading.Event())


if __name__ == "__main__":
    job = Job(**json.loads(sys.argv[1]))
    SIDES[job.side](job)
    os._exit(0)
