"""A next hop's bytes into replies (RFC 5321 4.2).  Pure: bytes in, values out.

A hostile or broken next hop must cost bounded memory and must never be taken for a
success: anything outside the grammar is a ProtocolError, and the mail is deferred.
"""

import re

from gwrelay.errors import GatewayError
from gwrelay.message.reply import Reply

#: RFC 5321 4.5.3.1.5 allows 512 bytes a line; longer ones are seen, endless ones are hostile.
MAX_LINE_BYTES = 8192
MAX_LINES = 200

_STATUS = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?: |$)")


class ProtocolError(GatewayError):
    """What came is not an SMTP reply."""


class ReplyReader:
    """Collects received bytes and gives back whole replies, one at a time.

    `reply_max_bytes` bounds a whole reply, however many lines it has.
    """

    def __init__(self, reply_max_bytes: int = 64 * 1024) -> None:
        self._buffer = b""
        self._max_bytes = reply_max_bytes

    def __len__(self) -> int:
        """Bytes received and not yet part of a reply given out."""
        return len(self._buffer)

    def feed(self, received: bytes) -> None:
        self._buffer = self._buffer + received if self._buffer else received

    def next(self) -> Reply | None:
        """The next whole reply; None while it is not complete.  Raises ProtocolError."""
        buffer = self._buffer
        end = buffer.find(b"\n") + 1
        # Nearly every reply is one line, and nearly every read brings exactly one reply.
        if end and buffer[3:4] in b" \r\n":
            self._buffer = buffer[end:]
            return _reply(_code(buffer), [_text(buffer[:end])])
        return self._next_of_many_lines()

    def _next_of_many_lines(self) -> Reply | None:
        texts: list[str] = []
        code = start = 0
        while end := self._buffer.find(b"\n", start) + 1:
            line = self._buffer[start:end]
            start = end
            if texts and _code(line) != code:
                raise ProtocolError(f"reply changes its code: {line[:80]!r}")
            code = _code(line)
            texts.append(_text(line))
            if len(texts) > MAX_LINES:
                raise ProtocolError(f"reply of more than {MAX_LINES} lines")
            if start > self._max_bytes:
                raise ProtocolError(f"reply of more than {self._max_bytes} bytes")
            if line[3:4] != b"-":
                self._buffer = self._buffer[start:]
                return _reply(code, texts)
        if len(self._buffer) > self._max_bytes:
            raise ProtocolError(f"reply of more than {self._max_bytes} bytes")
        if len(self._buffer) - start > MAX_LINE_BYTES:
            raise ProtocolError(f"reply line of more than {MAX_LINE_BYTES} bytes")
        return None


def _code(line: bytes) -> int:
    """Three ASCII digits, 200..599, then space, hyphen or the end.

    int() alone would take "2_5", "+25" and digits of other scripts.
    """
    digits = line[:3]
    if not (digits.isdigit() and digits.isascii() and line[3:4] in b" -\r\n"):
        raise ProtocolError(f"not an SMTP reply: {line[:80]!r}")
    code = int(digits)
    if not 200 <= code < 600:
        raise ProtocolError(f"reply code out of range: {line[:80]!r}")
    return code


def _text(line: bytes) -> str:
    if len(line) > MAX_LINE_BYTES:
        raise ProtocolError(f"reply line of more than {MAX_LINE_BYTES} bytes")
    return line[4:].rstrip(b"\r\n").decode("utf-8", "replace")


def _reply(code: int, texts: list[str]) -> Reply:
    """A status whose class contradicts the code is dropped: the code decides (RFC 2034 3)."""
    found = _STATUS.match(texts[0])
    if found is None or texts[0][0] != str(code)[0]:
        return Reply(code, "", "\n".join(texts))
    status = found[1]
    cut = len(status)
    rest = [text[cut:].lstrip(" ") if text.startswith(status) else text for text in texts]
    return Reply(code, status, "\n".join(rest))
