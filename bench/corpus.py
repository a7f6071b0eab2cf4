"""Messages to relay: CPython's own mail corpus when it is installed, and some made here.

All contents are canonical (every line ends with CRLF) and may be sent over SMTP as they
are; what may not be is named, never repaired in silence.
"""

import importlib.util
import random
import re
from pathlib import Path
from typing import NamedTuple

_LINE_END = re.compile(rb"\r\n|\n")
#: Octets of a text line without its CRLF, RFC 5321 4.5.3.1.6.
_LINE_BYTES = 998


class Specimen(NamedTuple):
    """One content and where it is from."""

    name: str
    content: bytes


def canonical(text: bytes) -> bytes:
    """`text` with CRLF for each LF and after the last line.  Lone CRs stay: see `objection`."""
    lines = _LINE_END.sub(b"\r\n", text)
    return lines if not lines or lines.endswith(b"\r\n") else lines + b"\r\n"


def objection(content: bytes) -> str | None:
    """Why a server may refuse `content` with every right, or None (RFC 5321 2.3.8, 4.5.3.1.6)."""
    lines = content.split(b"\r\n")
    if any(b"\r" in line or b"\n" in line for line in lines):
        return "a bare CR or LF"
    if b"\0" in content:
        return "a NUL"
    if max(map(len, lines)) > _LINE_BYTES:
        return f"a line of more than {_LINE_BYTES} octets"
    return None


def cpython_messages() -> list[Specimen]:
    """Every msg_*.txt of CPython's test suite; none when Python came without it.

    Python as packaged by some distributions leaves `test` out, hence the question.
    """
    try:
        package = importlib.util.find_spec("test.test_email")
    except ModuleNotFoundError:
        return []
    if package is None or package.origin is None:
        return []
    paths = sorted(Path(package.origin).with_name("data").glob("msg_*.txt"))
    return [Specimen(path.name, canonical(path.read_bytes())) for path in paths]


def made_messages(large_bytes: int = 2 * 1024 * 1024) -> list[Specimen]:
    """What a mail corpus lacks: dots, eight bits, nothing at all, much.

    The same bytes on every run, so that a failure can be repeated.
    """
    noise = random.Random(5321)
    return [
        Specimen("one line", _message("short", "Hello.")),
        Specimen("no body", b"From: a@source.example\r\nSubject: no body\r\n"),
        Specimen("no header", b"\r\nA body and no header at all.\r\n"),
        Specimen("blank lines only", b"\r\n\r\n\r\n"),
        Specimen("dots", _message("dots", *("." * n for n in range(1, 70)))),
        Specimen("a dot on each line", _message("dot", *(f".{n}" for n in range(500)))),
        Specimen("a dot last", _message("ends with a dot", "text", ".")),
        Specimen("dots first", b".\r\n..\r\n.no header either\r\n.\r\n"),
        Specimen(
            "UTF-8", _message("8-bit", "Zwölf Boxkämpfer jagen Viktor", "日本語のメール", "👋")
        ),
        Specimen(
            "Latin-1", _message("8-bit").replace(b"8-bit", b"\xe9t\xe9") + b"\xa4\xff\xfe\r\n"
        ),
        Specimen("a folded line first", b" folded, from the first octet on\r\nSubject: x\r\n\r\n"),
        Specimen("longest line", _message("long line", "x" * _LINE_BYTES)),
        Specimen(
            "other line ends", _message("not line ends", "\v\f\x1c\x85\u2028\u2029.", ".\x1c")
        ),
        Specimen("many fields", b"X-Field: value\r\n" * 400 + _message("400 fields", "body")),
        Specimen("50 KiB", _message("medium", *_words(noise, 50 * 1024))),
        Specimen("large text", _message("large", *_words(noise, large_bytes))),
        Specimen("large 8-bit", _message("large, 8-bit") + _eight_bit_lines(noise, large_bytes)),
    ]


def corpus() -> tuple[list[Specimen], list[tuple[str, str]]]:
    """All that can be sent, and (name, reason) of what cannot."""
    specimens = cpython_messages() + made_messages()
    reasons = [(specimen, objection(specimen.content)) for specimen in specimens]
    return (
        [specimen for specimen, reason in reasons if reason is None],
        [(specimen.name, reason) for specimen, reason in reasons if reason is not None],
    )


def _message(subject: str, *lines: str) -> bytes:
    head = ("From: a@source.example", f"Subject: {subject}", "")
    return "".join(f"{line}\r\n" for line in (*head, *lines)).encode()


def _words(noise: random.Random, size_bytes: int) -> list[str]:
    """Lines of 60 letters in words, `size_bytes` in all."""
    letters = "etaoin shrdlu .-"
    return ["".join(noise.choices(letters, k=60)) for _ in range(size_bytes // 62)]


def _eight_bit_lines(noise: random.Random, size_bytes: int) -> bytes:
    """Random octets but NUL, CR and LF, in lines of 254; some start with a dot."""
    clean = bytes.maketrans(b"\0\r\n", b"\xa0..")
    octets = noise.randbytes(size_bytes).translate(clean)
    return b"".join(octets[at : at + 254] + b"\r\n" for at in range(0, size_bytes, 254))
