"""A scripted SMTP server in threads: polite by default, and rude where a test says so.

    with Peer() as peer:
        peer.once("RCPT", "450 4.2.1 greylisted")          # the next RCPT; then polite again
        peer.always("DATA", ("421 4.3.2 going", DROP))     # until further notice
        peer.recipient("a@b.example", "550 5.1.1 nobody")  # every RCPT of that mailbox
        ... send to peer.address ...
        peer.wait_for_messages(1)
        assert peer.messages[0].content == b"..."

An answer is one of
    str         reply lines as sent, parted by "\n", each ended by CRLF on the wire
    bytes       sent as it is
    Pause(s)    wait so many seconds, then go on
    Slow(s, n)  from here on read no more than n bytes, and wait s seconds after each read
    DROP        close the connection; RESET: close it with a TCP reset
    STALL       say nothing more, until the client or the test ends the connection
    POLITE      what the peer would have said without a script
    a tuple     of these, one after the other
    callable    given the Command, returns one of these

A stage is a verb (EHLO, HELO, MAIL, RCPT, DATA, RSET, NOOP, QUIT, VRFY, STARTTLS, AUTH), or
CONNECT (the banner), CONTENT (the first octets after 354), or "." (the final dot).

Replies to pipelined commands leave together.  A message counts as accepted when the reply to
its final dot was positive, whether or not the client stays to hear it.
"""

import base64
import contextlib
import re
import socket
import ssl
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, NamedTuple

from scramp import ScramException, ScramMechanism

EXTENSIONS = ("PIPELINING", "SIZE 104857600", "8BITMIME", "ENHANCEDSTATUSCODES", "DSN")


class Pause(NamedTuple):
    """Wait `seconds` before what follows."""

    seconds: float


class Slow(NamedTuple):
    """Read no more than `size` bytes at a time, and wait `seconds` after each."""

    seconds: float
    size: int


class _Act(str):
    """A word of the script that is no reply."""

    __slots__ = ()


DROP = _Act("drop")
RESET = _Act("reset")
STALL = _Act("stall")
POLITE = _Act("polite")


class Command(NamedTuple):
    """One line from the client, or a stage without one (CONNECT, CONTENT, ".")."""

    session: int
    verb: str
    line: bytes
    #: The mailbox of a MAIL or RCPT, else "".
    mailbox: str = ""


class Arrival(NamedTuple):
    """One accepted message, content dot-unstuffed but otherwise as it came."""

    reverse_path: str
    recipients: tuple[str, ...]
    content: bytes
    session: int
    #: Unix seconds.
    at: float
    helo: str
    #: What followed the <mailbox> of MAIL, and of each accepted RCPT.
    mail_parameters: str
    rcpt_parameters: tuple[str, ...]
    #: Whether the session was encrypted, and as whom it had authenticated.
    tls: bool
    user: str
    #: What had come behind the final dot before it was answered.
    behind: bytes


Answer = Any  # str | bytes | Pause | tuple | Callable[[Command], Answer]; see above

_PATH = re.compile(
    r'(?:FROM|TO):\s*<((?:"(?:[^"\\]|\\.)*"|[^>"])*)>(.*)', re.IGNORECASE | re.DOTALL
)


class _GoneError(Exception):
    """The session is over."""


class Peer:
    """Listens from `start` (or `with`) to `stop`; the port stays its own for another `start`."""

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        name: str = "peer.example",
        extensions: tuple[str, ...] = EXTENSIONS,
        tls: ssl.SSLContext | None = None,
        implicit_tls: bool = False,
        backlog: int = 1024,
        narrow: bool = False,
    ) -> None:
        self.host, self.port, self.name = host, port, name
        self.extensions = extensions + (("STARTTLS",) if tls else ())
        self.tls = tls
        #: Whether `tls` begins with the connection.
        self.implicit_tls = implicit_tls
        self.backlog = backlog
        #: Whether no more than some 100 KB fit on the way to it, instead of several MB: then how
        #: fast it reads is soon how fast a client can write.
        self.narrow = narrow
        self._changed = threading.Condition()
        self._once: dict[str, deque[Answer]] = {}
        self._always: dict[str, Answer] = {}
        self._recipients: dict[str, Answer] = {}
        self._listener: socket.socket | None = None
        self._sockets: dict[int, socket.socket] = {}
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        #: Messages accepted, in order.
        self.messages: list[Arrival] = []
        #: Every command line, in order of arrival over all sessions.
        self.commands: list[Command] = []
        #: Connections taken since the peer was made, and when (Unix seconds).
        self.connections = 0
        self.connected_at: list[float] = []
        #: The address each of them came from.
        self.clients: list[str] = []
        #: Sessions open now, and the most there were at one time.
        self.open = 0
        self.most_open = 0

    # -- the script ---------------------------------------------------------------------

    def once(self, stage: str, *answers: Answer) -> "Peer":
        """Give each of `answers` to one use of `stage`, in order, before what `always` says."""
        with self._changed:
            self._once.setdefault(stage, deque()).extend(answers)
        return self

    def always(self, stage: str, answer: Answer) -> "Peer":
        """Answer `stage` so from here on; POLITE takes it back."""
        with self._changed:
            self._always[stage] = answer
        return self

    def recipient(self, mailbox: str, *answers: Answer) -> "Peer":
        """Answer RCPT of `mailbox`: each answer once, the last one for good."""
        with self._changed:
            self._recipients[mailbox] = deque(answers)
        return self

    def _scripted(self, command: Command) -> Answer:
        with self._changed:
            mine = self._recipients.get(command.mailbox) if command.verb == "RCPT" else None
            if mine:
                answer = mine.popleft() if len(mine) > 1 else mine[0]
            elif self._once.get(command.verb):
                answer = self._once[command.verb].popleft()
            else:
                answer = self._always.get(command.verb, POLITE)
        return answer(command) if callable(answer) and not isinstance(answer, str) else answer

    def _has_script(self, stage: str) -> bool:
        with self._changed:
            return bool(self._once.get(stage)) or self._always.get(stage, POLITE) is not POLITE

    # -- what a test asks ---------------------------------------------------------------

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    @property
    def spec(self) -> str:
        """host:port, as a --smarthost takes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def verbs(self, session: int | None = None) -> list[str]:
        """The verbs received, of one session or of all."""
        with self._changed:
            return [c.verb for c in self.commands if session in (None, c.session)]

    def arrived(self) -> Counter[str]:
        """How often each recipient was delivered to."""
        with self._changed:
            return Counter(r for m in self.messages for r in m.recipients)

    def message_to(self, recipient: str) -> Arrival:
        """The first message that `recipient` got."""
        with self._changed:
            found = [m for m in self.messages if recipient in m.recipients]
            assert found, (
                f"nothing for {recipient}; arrived: {[m.recipients for m in self.messages]}"
            )
            return found[0]

    def wait_for(self, condition: Callable[["Peer"], object], timeout: float = 10.0) -> None:
        """Return once `condition(peer)` is true; asked again after everything that happens."""
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self), timeout):
                raise AssertionError(
                    f"peer waited {timeout} s in vain: {len(self.messages)} messages,"
                    f" {self.connections} connections, last commands {self.commands[-8:]}"
                )

    def wait_for_messages(self, count: int, timeout: float = 10.0) -> list[Arrival]:
        self.wait_for(lambda peer: len(peer.messages) >= count, timeout)
        return self.messages

    # -- life ---------------------------------------------------------------------------

    def __enter__(self) -> "Peer":
        return self.start()

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def start(self) -> "Peer":
        listener = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.narrow:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1000)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind((self.host, self.port))
        listener.listen(self.backlog)
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._stopping = threading.Event()
        self._spawn(self._accept, listener, self._stopping)
        return self

    def stop(self) -> None:
        """Refuse connections from here on and end the open ones."""
        self._stopping.set()
        if self._listener is not None:
            # Wakes the accepting thread; a plain close would leave it, and the port, waiting.
            # One that is just back with a connection has seen the end, and closed it already.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener = None
        self.drop_sessions()
        for thread in self._threads:
            thread.join(5)
        self._threads.clear()

    def drop_sessions(self) -> None:
        """End every open session, as a crash of the server would."""
        with self._changed:
            for sock in self._sockets.values():
                _hang_up(sock)

    def _spawn(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket, stopping: threading.Event) -> None:
        with listener:
            while not stopping.is_set():
                try:
                    sock, client = listener.accept()
                except OSError:
                    return
                if stopping.is_set():
                    sock.close()
                    return
                with self._changed:
                    self.connections += 1
                    number = self.connections
                    self.connected_at.append(time.time())
                    self.clients.append(client[0])
                    self.open += 1
                    self.most_open = max(self.most_open, self.open)
                    self._sockets[number] = sock
                    self._changed.notify_all()
                self._threads = [t for t in self._threads if t.is_alive()]
                self._spawn(self._serve, sock, number, stopping)

    def _serve(self, sock: socket.socket, number: int, stopping: threading.Event) -> None:
        session = _Session(self, sock, number, stopping)
        try:
            session.run()
        except (_GoneError, OSError):
            pass  # the client's or the script's end of it; what was said is on record
        finally:
            session.sock.close()
            with self._changed:
                self.open -= 1
                self._sockets.pop(number, None)
                self._changed.notify_all()

    def _note_command(self, command: Command) -> None:
        with self._changed:
            self.commands.append(command)
            self._changed.notify_all()

    def _note_message(self, arrival: Arrival) -> None:
        with self._changed:
            self.messages.append(arrival)
            self._changed.notify_all()


class _Session:
    """One connection: reads lines, asks the script, says what it says."""

    def __init__(
        self, peer: Peer, sock: socket.socket, number: int, stopping: threading.Event
    ) -> None:
        self.peer, self.sock, self.number, self.stopping = peer, sock, number, stopping
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.unread = bytearray()
        self.unsent = bytearray()
        self.helo = ""
        self.user = ""
        self.slow = Slow(0.0, 262144)
        self._reset()

    def _reset(self) -> None:
        self.reverse_path: str | None = None
        self.mail_parameters = ""
        self.recipients: list[str] = []
        self.rcpt_parameters: list[str] = []

    def run(self) -> None:
        if self.peer.implicit_tls and self.peer.tls is not None:
            self.sock = self.peer.tls.wrap_socket(self.sock, server_side=True)
        self._answer(Command(self.number, "CONNECT", b""), f"220 {self.peer.name} ESMTP")
        while True:
            line = self._line()
            text = line.decode("utf-8", "surrogateescape")
            verb = text.split(" ", 1)[0].upper()
            path = _PATH.search(text) if verb in ("MAIL", "RCPT") else None
            command = Command(self.number, verb, line, path[1] if path else "")
            self.peer._note_command(command)
            polite = getattr(self, f"_{verb.lower()}", self._unknown)
            polite(command, path[2].strip() if path else text[len(verb) :].strip())

    # -- verbs: each says what politeness asks and, once that is what was said, does it ----

    def _ehlo(self, command: Command, argument: str) -> None:
        lines = [self.peer.name, *self.peer.extensions]
        if isinstance(self.sock, ssl.SSLSocket):
            lines = [line for line in lines if line != "STARTTLS"]
        polite = [f"250-{line}" for line in lines[:-1]] + [f"250 {lines[-1]}"]
        if self._answer(command, "\n".join(polite)):
            self.helo = argument
            self._reset()

    def _helo(self, command: Command, argument: str) -> None:
        if self._answer(command, f"250 {self.peer.name}"):
            self.helo = argument
            self._reset()

    def _mail(self, command: Command, parameters: str) -> None:
        if self.reverse_path is not None:
            self._say("503 5.5.1 nested MAIL")
        elif self._answer(command, "250 2.1.0 sender ok"):
            self.reverse_path = command.mailbox
            self.mail_parameters = parameters

    def _rcpt(self, command: Command, parameters: str) -> None:
        if self.reverse_path is None:
            self._say("503 5.5.1 need MAIL first")
        elif self._answer(command, "250 2.1.5 recipient ok"):
            self.recipients.append(command.mailbox)
            self.rcpt_parameters.append(parameters)

    def _data(self, command: Command, _argument: str) -> None:
        polite = "354 go on" if self.recipients else "554 5.5.1 no valid recipients"
        if self._answer(command, polite) != 3:
            return
        if not self.unread:
            self._fill()
        self._answer(Command(self.number, "CONTENT", b""), b"")
        content = self._content()
        arrival = Arrival(
            self.reverse_path or "",
            tuple(self.recipients),
            content,
            self.number,
            time.time(),
            self.helo,
            self.mail_parameters,
            tuple(self.rcpt_parameters),
            isinstance(self.sock, ssl.SSLSocket),
            self.user,
            bytes(self.unread),
        )
        self._reset()
        dot = Command(self.number, ".", b".")
        self.peer._note_command(dot)
        self._answer(dot, "250 2.0.0 taken", accepted=lambda: self.peer._note_message(arrival))

    def _rset(self, command: Command, _argument: str) -> None:
        if self._answer(command, "250 2.0.0 reset"):
            self._reset()

    def _noop(self, command: Command, _argument: str) -> None:
        self._answer(command, "250 2.0.0 ok")

    def _vrfy(self, command: Command, _argument: str) -> None:
        self._answer(command, "252 2.5.0 perhaps")

    def _quit(self, command: Command, _argument: str) -> None:
        self._answer(command, ("221 2.0.0 bye", DROP))

    def _starttls(self, command: Command, _argument: str) -> None:
        if self.peer.tls is None:
            self._answer(command, "502 5.5.1 no TLS here")
        elif self._answer(command, "220 2.0.0 go ahead"):
            self._flush()
            self.sock = self.peer.tls.wrap_socket(self.sock, server_side=True)
            self.unread.clear()
            self.helo = ""
            self._reset()

    def _auth(self, command: Command, argument: str) -> None:
        """PLAIN and LOGIN, any credentials; SCRAM-SHA-256, any user whose password is "secret";
        the script may say 535 instead."""
        mechanism, _, initial = argument.partition(" ")
        if mechanism.upper() == "PLAIN" and not initial:
            initial = self._ask("334 ")
        elif mechanism.upper() == "LOGIN":
            initial = initial or self._ask("334 VXNlcm5hbWU6")
            self._ask("334 UGFzc3dvcmQ6")
        elif mechanism.upper() == "SCRAM-SHA-256" and not self.peer._has_script("AUTH"):
            self._scram(initial)
        if self._answer(command, "235 2.7.0 welcome"):
            self.user = initial

    def _scram(self, initial: str) -> None:
        """By another's implementation than the one under test."""
        scram = ScramMechanism("SCRAM-SHA-256")
        server = scram.make_server(lambda _user: scram.make_auth_info("secret"))
        server.set_client_first(base64.b64decode(initial).decode())
        final = self._ask(f"334 {_base64(server.get_server_first())}")
        try:
            server.set_client_final(base64.b64decode(final).decode())
        except ScramException:
            self._say("535 5.7.8 wrong")
            self._flush()
            raise _GoneError from None
        self._ask(f"334 {_base64(server.get_server_final())}")

    def _unknown(self, command: Command, _argument: str) -> None:
        self._answer(command, "500 5.5.2 what?")

    # -- bytes --------------------------------------------------------------------------

    def _answer(
        self, command: Command, polite: Answer, accepted: Callable[[], None] | None = None
    ) -> int:
        """Say what the script has for `command`; returns the class of the last reply: 2 or 3,
        or 0 for anything that promises nothing."""
        said = self._perform(self.peer._scripted(command), polite, accepted)
        return said if said in (2, 3) else 0

    def _perform(self, answer: Answer, polite: Answer, accepted: Callable[[], None] | None) -> int:
        said = 0
        for step in answer if type(answer) is tuple else (answer,):
            if step is POLITE:
                said = self._perform(polite, polite, accepted)
            elif isinstance(step, Pause):
                self._flush()
                self.stopping.wait(step.seconds)
            elif isinstance(step, Slow):
                self.slow = step
            elif isinstance(step, _Act):
                self._end(step)
            else:
                said = self._say(step)
                if said == 2 and accepted:
                    accepted()
        return said

    def _say(self, text: str | bytes) -> int:
        raw = text if isinstance(text, bytes) else text.replace("\n", "\r\n").encode() + b"\r\n"
        self.unsent += raw
        last = raw.rstrip().rpartition(b"\n")[2]
        return int(last[:1]) if last[:1].isdigit() else 0

    def _ask(self, prompt: str) -> str:
        self._say(prompt)
        return self._line().decode("utf-8", "surrogateescape")

    def _end(self, act: _Act) -> None:
        self._flush()
        if act is STALL:
            while not self.stopping.is_set() and self.sock.recv(65536):
                pass
        elif act is RESET:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise _GoneError

    def _flush(self) -> None:
        if self.unsent:
            out = bytes(self.unsent)
            self.unsent.clear()
            self.sock.sendall(out)

    def _fill(self) -> None:
        self._flush()
        chunk = self.sock.recv(self.slow.size)
        if self.slow.seconds:
            self.stopping.wait(self.slow.seconds)
        if not chunk:
            raise _GoneError
        self.unread += chunk

    def _line(self) -> bytes:
        while (end := self.unread.find(b"\r\n")) < 0:
            self._fill()
        line = bytes(self.unread[:end])
        del self.unread[: end + 2]
        return line

    def _content(self) -> bytes:
        """Everything up to the final dot, unstuffed (RFC 5321 4.5.2)."""
        # The CRLF before a first line of "." is the one that ended the DATA command.
        self.unread[:0] = b"\r\n"
        seen = 0
        while (end := self.unread.find(b"\r\n.\r\n", seen)) < 0:
            seen = max(0, len(self.unread) - 4)
            self._fill()
        stuffed = bytes(self.unread[: end + 2])
        del self.unread[: end + 5]
        return stuffed.replace(b"\r\n.", b"\r\n")[2:]


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _hang_up(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it was going anyway
