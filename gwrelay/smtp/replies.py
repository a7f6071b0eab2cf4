"""A next hop's bytes into replies (RFC 5321 4.2).  Pure: bytes in, values out.

A hostile or broken next hop must cost bounded memory and must never be taken for a
success: anything outside the grammar is a ProtocolError, and the mail is deferred.
"""

import re
from functools import lru_cache

from gwrelay.errors import GatewayError
from gwrelay.message.reply import Reply

#: RFC 5321 4.5.3.1.5 allows 512 bytes a line; longer ones are seen, endless ones are hostile.
MAX_LINE_BYTES = 8192
MAX_LINES = 100

#: Longer lines are not remembered, so that hostile ones cost no memory.
_SHORT_BYTES = 128

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
        # The lines so far of a reply of many: kept, so that a reply that trickles in is not
        # parsed from its start again at each byte.
        self._texts: list[str] = []
        self._texts_bytes = 0
        self._code = 0

    def __len__(self) -> int:
        """Bytes received and not yet part of a reply given out."""
        return self._texts_bytes + len(self._buffer)

    def goes_on_with(self, code: bytes) -> bool:
        """Whether this is how what was received begins, no part of it being read yet."""
        return not self._texts and self._buffer.startswith(code)

    def feed(self, received: bytes) -> None:
        self._buffer = self._buffer + received if self._buffer else received

    def next(self) -> Reply | None:
        """The next whole reply; None while it is not complete.  Raises ProtocolError."""
        buffer = self._buffer
        if not buffer:
            return None
        end = buffer.find(b"\n") + 1
        # Nearly every reply is one line, and nearly every read brings exactly one reply.
        if end and not self._texts and buffer[3:4] in b" \r\n":
            self._buffer = buffer[end:]
            return _short(buffer[:end]) if end <= _SHORT_BYTES else _of_one_line(buffer[:end])
        return self._next_of_many_lines()

    def _next_of_many_lines(self) -> Reply | None:
        while end := self._buffer.find(b"\n") + 1:
            line, self._buffer = self._buffer[:end], self._buffer[end:]
            code = _code(line)
            if self._texts and code != self._code:
                raise ProtocolError(f"reply changes its code: {line[:80]!r}")
            self._code = code
            self._texts.append(_text(line))
            self._texts_bytes += end
            if len(self._texts) > MAX_LINES:
                raise ProtocolError(f"reply of more than {MAX_LINES} lines")
            if self._texts_bytes > self._max_bytes:
                raise ProtocolError(f"reply of more than {self._max_bytes} bytes")
            if line[3:4] != b"-":
                texts, self._texts, self._texts_bytes = self._texts, [], 0
                return _reply(code, texts)
        if len(self) > self._max_bytes:
            raise ProtocolError(f"reply of more than {self._max_bytes} bytes")
        if len(self._buffer) > MAX_LINE_BYTES:
            raise ProtocolError(f"reply line of more than {MAX_LINE_BYTES} bytes")
        return None


def _of_one_line(line: bytes) -> Reply:
    return _reply(_code(line), [_text(line)])


# Servers say the same few lines over and over: three of the four replies to a message.
_short = lru_cache(maxsize=256)(_of_one_line)


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
    if b"\0" in line:
        raise ProtocolError(f"NUL in a reply: {line[:80]!r}")
    return line[4:].rstrip(b"\r\n").decode("utf-8", "replace")


def _reply(code: int, texts: list[str]) -> Reply:
    """A status whose class contradicts the code is dropped: the code decides (RFC 2034 3)."""
    found = _STATUS.match(texts[0])
    if found is None or texts[0][0] != str(code)[0]:
        return Reply(code, "", "\n".join(texts))
    status = found[1]
    cut = len(status)
    # With the space, or "5.1.1" would take the head off a "5.1.10".
    repeats = (f"{text} ".startswith(f"{status} ") for text in texts)
    rest = [
        text[cut:].lstrip(" ") if repeated else text
        for text, repeated in zip(texts, repeats, strict=True)
    ]
    return Reply(code, status, "\n".join(rest))
