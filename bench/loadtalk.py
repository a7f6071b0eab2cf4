"""The sink's side of a session of the load: bytes in, bytes out.  No sockets.

Takes all mail of any client (RFC 5321, with PIPELINING) at the least cost there is; what comes in
one piece is looked at in one piece.
"""

from collections.abc import Callable, Generator

_END = b"\r\n.\r\n"
_GREETING = b"220 sink.example ESMTP\r\n"
_EHLO = b"250-sink.example\r\n250-PIPELINING\r\n250-SIZE\r\n250-8BITMIME\r\n"
_OK = b"250 2.0.0 ok\r\n"
_GO_AHEAD = b"354 go ahead\r\n"
_READY_FOR_TLS = b"220 2.0.0 go on\r\n"
_TLS_FIRST = b"530 5.7.0 STARTTLS first\r\n"
_BAD_ORDER = b"503 5.5.1 not now\r\n"
_CLOSING = b"221 2.0.0 bye\r\n"


class Conversation:
    """Say `greeting`, then what receive() returns, each `delay_s` late.  After that has been said,
    hang up once `closes`, and begin TLS once `encrypts`; `demands_tls`: take nothing before.

    `arrive(envelope, words, size)` is called with each message: its commands, and `words` of which
    the first `size` bytes are its content, still dot-stuffed.
    """

    def __init__(
        self,
        arrive: Callable[[bytes, bytes, int], None],
        *,
        demands_tls: bool,
        delay_s: float = 0.0,
    ) -> None:
        self.closes = False
        self.encrypts = False
        self.delay_s = delay_s
        self._arrive = arrive
        self._demands_tls = demands_tls
        self._talk = self._converse()
        self.greeting = next(self._talk)

    def receive(self, words: bytes) -> bytes:
        """Every reply that `words` complete, in order."""
        return self._talk.send(words)

    def _converse(self) -> Generator[bytes, bytes, None]:
        said, rest, envelope = _GREETING, b"", b""
        while True:
            if not self._demands_tls and _is_envelope(rest):
                envelope, rest = rest[: -len(b"DATA\r\n")], b""
                said += _OK * envelope.count(b"\n") + _GO_AHEAD
            else:
                line, found, after = rest.partition(b"\r\n")
                if not found:
                    rest += yield said
                    said = b""
                    continue
                rest = after
                verb = line[:4].upper()
                if verb != b"DATA" or not envelope:
                    said += self._reply(verb)
                    if verb in (b"MAIL", b"RCPT"):
                        envelope += b"" if self._demands_tls else line + b"\r\n"
                    elif verb == b"STAR":
                        rest = b""  # what came before the handshake is nobody's word
                    elif verb in (b"RSET", b"EHLO"):
                        envelope = b""
                    continue
                said += _GO_AHEAD
            scanned = 0
            while (end := _end(rest, scanned)) is None:
                scanned = max(0, len(rest) - len(_END) + 1)
                rest += yield said
                said = b""
            self._arrive(envelope, rest, end + 2)
            said, rest, envelope = said + _OK, rest[end + len(_END) :], b""

    def _reply(self, verb: bytes) -> bytes:
        if verb == b"EHLO":
            return _EHLO + (b"250-STARTTLS\r\n" if self._demands_tls else b"") + b"250 DSN\r\n"
        if verb == b"STAR" and self._demands_tls:
            self.encrypts, self._demands_tls = True, False
            return _READY_FOR_TLS
        if verb in (b"MAIL", b"RCPT", b"DATA") and self._demands_tls:
            return _TLS_FIRST
        if verb == b"DATA":
            return _BAD_ORDER
        if verb == b"QUIT":
            self.closes = True
            return _CLOSING
        return _OK


def _end(content: bytes, scanned: int) -> int | None:
    """Where the CRLF before the final dot is, which is none of `content` when that is empty (RFC
    5321 4.1.1.4); None when it is not there yet."""
    if content.startswith(_END[2:]):
        return -2
    end = content.find(_END, scanned)
    return end if end >= 0 else None


def _is_envelope(words: bytes) -> bool:
    """Whether it is all of MAIL, RCPT, DATA: what a client that pipelines sends at once."""
    return (
        words[:4] == b"MAIL"
        and words[-8:] == b"\r\nDATA\r\n"
        and words.count(b"\r\nRCPT ") == words.count(b"\n") - 2
    )
