"""The sink's side of one SMTP session: bytes in, bytes and Arrivals out.  No sockets.

Speaks just enough of RFC 5321 to take mail from any client, with PIPELINING (RFC 2920),
8BITMIME, SIZE, SMTPUTF8, ENHANCEDSTATUSCODES and DSN.  It is an instrument: what arrives
is recorded as it is and never judged, so bare CR and LF stay where they are, and only
CRLF.CRLF ends content.
"""

import hashlib
import random
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from gwrelay_bench.behaviour import DROP, TAKEN, Behaviour, Fault, Greylist, refusal

_EXTENSIONS = ("PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "DSN")
_GREETING = b"220 sink.example ESMTP\r\n"
_CLOSING = b"221 2.0.0 bye\r\n"
_EHLO = "".join(f"250-{word}\r\n" for word in ("sink.example", *_EXTENSIONS[:-1])).encode()
_EHLO += f"250 {_EXTENSIONS[-1]}\r\n".encode()
_EHLO_ONE_BY_ONE = _EHLO.replace(b"250-PIPELINING\r\n", b"")
_OK = b"250 2.0.0 ok\r\n"
_SENDER_OK = b"250 2.1.0 ok\r\n"
_RECIPIENT_OK = b"250 2.1.5 ok\r\n"
_READY_FOR_TLS = b"220 2.0.0 go on\r\n"
_GO_AHEAD = b"354 go ahead\r\n"
_CANNOT_VERIFY = b"252 2.1.5 send it and see\r\n"
_UNKNOWN = b"500 5.5.2 no such command here\r\n"
_BAD_PATH = b"501 5.5.4 a path stands in <>\r\n"
_BAD_ORDER = b"503 5.5.1 not now\r\n"
_NOBODY = b"554 5.5.1 no recipient was accepted\r\n"

#: MAIL FROM:<path>, RCPT TO:<path>.  A quoted local part may contain ">".
_PATH = re.compile(rb'(?:FROM|TO):\s*<((?:"(?:\\.|[^"\\])*"|[^">])*)>', re.IGNORECASE)


class Arrival(NamedTuple):
    """One transaction the sink answered 250."""

    #: Unix seconds, taken when the final dot was read.
    at: float
    #: The address it was delivered to, as the listener calls it.
    exchange: str
    reverse_path: str
    recipients: tuple[str, ...]
    size_bytes: int
    #: SHA-256 of the content without its dot-stuffing, in hex; "" when not asked for.
    digest: str
    #: None unless the sink was told to keep it.
    content: bytes | None


class SinkSession:
    """One connection.  `receive` bytes, send what it returns, hang up once `closes`, and
    begin TLS once `encrypts`."""

    def __init__(
        self,
        exchange: str,
        record: Callable[[Arrival], None],
        clock: Callable[[], float],
        rules: Behaviour,
        greylist: Greylist,
        *,
        digest: bool = True,
        keep_content: bool = False,
        offers_tls: bool = False,
        chance: Callable[[], float] = random.random,
        on_fault: Callable[[str], None] | None = None,
    ) -> None:
        """`chance` gives numbers from 0 to 1, of which a fault's odds are; `on_fault` is told of
        each that happens, by code or DROP or TAKEN."""
        self.closes = False
        self.encrypts = False
        #: Seconds the replies of the last `receive` are to be held back.
        self.delay_s = rules.delays.get("CONNECT", 0.0)
        self._offers_tls = offers_tls
        self._chance = chance
        self._on_fault = on_fault
        self._exchange = exchange
        self._record = record
        self._clock = clock
        self._rules = rules
        self._greylist = greylist
        self._digest = digest
        self._keep_content = keep_content
        self._buffer = bytearray()
        self._scanned = 0
        self._in_content = False
        self._reverse_path: str | None = None
        self._recipients: list[str] = []
        self._verbs: dict[bytes, Callable[[bytes], bytes]] = {
            b"MAIL": self._mail,
            b"RCPT": self._rcpt,
            b"DATA": self._data,
            b"EHLO": self._ehlo,
            b"HELO": self._rset,
            b"RSET": self._rset,
            b"NOOP": lambda _: _OK,
            b"VRFY": lambda _: _CANNOT_VERIFY,
            b"QUIT": self._quit,
            b"STAR": self._starttls,
        }
        fault = self._fault("CONNECT")
        self.greeting = _GREETING if fault is None else self._fail(fault)
        self.closes = fault is not None

    def receive(self, chunk: bytes) -> bytes:
        """Every reply that `chunk` completes, in order; sets `delay_s`."""
        self._buffer += chunk
        self.delay_s = 0.0
        replies = []
        while not self.closes:
            reply = self._end_of_content() if self._in_content else self._next_command()
            if reply is None:
                break
            replies.append(reply)
        return b"".join(replies)

    def _next_command(self) -> bytes | None:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        verb = line[:4].upper()
        if self._is_wayward:
            name = verb.decode("ascii", "replace")
            domains = self._domains_of(name, line)
            self._hold_back(name, domains)
            fault = self._fault(name, domains)
            if fault is not None:
                return self._fail(fault)
        known = self._verbs.get(verb)
        return known(line) if known else _UNKNOWN

    @property
    def _is_wayward(self) -> bool:
        rules = self._rules
        return bool(rules.delays or rules.domain_delays or rules.faults)

    def _domains_of(self, verb: str, line: bytes = b"") -> frozenset[str]:
        """Of the recipients that `verb` is about."""
        if verb == "RCPT":
            path = _PATH.search(line)
            return _domains([path[1].decode("utf-8", "surrogateescape")] if path else [])
        return _domains(self._recipients) if verb in ("DATA", "DOT") else frozenset()

    def _hold_back(self, verb: str, domains: Iterable[str] = ()) -> None:
        rules = self._rules
        of_domains = [rules.domain_delays.get((verb, domain), 0.0) for domain in domains]
        self.delay_s = max(self.delay_s, rules.delays.get(verb, 0.0), *of_domains)

    def _fault(self, verb: str, domains: Iterable[str] = ()) -> Fault | None:
        """What is to go wrong now, if anything is."""
        for fault in self._rules.faults:
            if fault.command != verb or (fault.domain and fault.domain not in domains):
                continue
            if self._chance() < fault.odds:
                return fault
        return None

    def _fail(self, fault: Fault) -> bytes:
        """What is said then; a session that ends so `closes`."""
        hangs_up = fault.reply in (DROP, TAKEN)
        self.closes = hangs_up or fault.reply.startswith("421")
        if self._on_fault is not None:
            self._on_fault(fault.reply.split(" ")[0])
        return b"" if hangs_up else f"{fault.reply}\r\n".encode()

    def _starttls(self, line: bytes) -> bytes:
        if not self._offers_tls:
            return _UNKNOWN
        self._offers_tls, self.encrypts = False, True
        self._buffer.clear()  # what came before the handshake is nobody's word
        self._rset(line)
        return _READY_FOR_TLS

    def _ehlo(self, line: bytes) -> bytes:
        self._rset(line)
        offered = _EHLO if self._rules.pipelining else _EHLO_ONE_BY_ONE
        return offered.replace(b"250 ", b"250-STARTTLS\r\n250 ") if self._offers_tls else offered

    def _rset(self, _: bytes) -> bytes:
        self._reverse_path = None
        self._recipients = []
        return _OK

    def _quit(self, _: bytes) -> bytes:
        self.closes = True
        return _CLOSING

    def _mail(self, line: bytes) -> bytes:
        if self._reverse_path is not None:
            return _BAD_ORDER
        path = _PATH.search(line)
        if path is None:
            return _BAD_PATH
        self._reverse_path = path[1].decode("utf-8", "surrogateescape")
        return _SENDER_OK

    def _rcpt(self, line: bytes) -> bytes:
        if self._reverse_path is None:
            return _BAD_ORDER
        path = _PATH.search(line)
        if path is None:
            return _BAD_PATH
        recipient = path[1].decode("utf-8", "surrogateescape")
        if self._rules.judges:
            reply = refusal(
                self._rules, self._greylist, self._reverse_path, recipient, self._clock()
            )
            if reply is not None:
                return f"{reply}\r\n".encode()
        self._recipients.append(recipient)
        return _RECIPIENT_OK

    def _data(self, _: bytes) -> bytes:
        if self._reverse_path is None:
            return _BAD_ORDER
        if not self._recipients:
            return _NOBODY
        self._in_content = True
        self._scanned = 0
        return _GO_AHEAD

    def _end_of_content(self) -> bytes | None:
        """Finish the transaction once the final dot is here.

        The CRLF before the dot is the last line's own, or, when nothing came before, that
        of the DATA command (RFC 5321 4.1.1.4).
        """
        if self._buffer.startswith(b".\r\n"):
            return self._arrive(b"", 3)
        end = self._buffer.find(b"\r\n.\r\n", self._scanned)
        if end < 0:
            self._scanned = max(0, len(self._buffer) - 4)
            return None
        return self._arrive(bytes(self._buffer[: end + 2]), end + 5)

    def _arrive(self, content: bytes, used: int) -> bytes:
        """The reply to the final dot."""
        del self._buffer[:used]
        fault = None
        if self._is_wayward:
            domains = self._domains_of("DOT")
            self._hold_back("DOT", domains)
            fault = self._fault("DOT", domains)
        if fault is None or fault.reply == TAKEN:
            self._take(unstuffed(content))
        self._in_content = False
        self._rset(b"")
        return _OK if fault is None else self._fail(fault)

    def _take(self, content: bytes) -> None:
        self._record(
            Arrival(
                self._clock(),
                self._exchange,
                self._reverse_path or "",
                tuple(self._recipients),
                len(content),
                hashlib.sha256(content).hexdigest() if self._digest else "",
                content if self._keep_content else None,
            )
        )


def _domains(recipients: Iterable[str]) -> frozenset[str]:
    return frozenset(recipient.lower().rpartition("@")[2] for recipient in recipients)


def unstuffed(content: bytes) -> bytes:
    """`content` with the first dot of every line that starts with one removed (RFC 5321 4.5.2)."""
    if b"\r\n." in content:
        content = content.replace(b"\r\n.", b"\r\n")
    return content[1:] if content.startswith(b".") else content
