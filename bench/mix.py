"""What messages of a load are like, where they are not all alike: sizes, domains, recipients.

Values, and their reading from options: each read_* raises ValueError with what is wrong.
"""

import hashlib
import random
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from gwrelay.notation import read_size
from gwrelay_bench.submission import text_content, wire_content

RIGHT_SIZES = "write a size like 4K, or sizes with weights like 2K:50,20K:40,1M:10"
RIGHT_DOMAINS = "write a number of them, or domains with weights like example.com:3,example.net:1"
#: The fields by which a sink knows a message again, and whether its body is whole.
IDENTITY, BODY_DIGEST = b"Message-ID", b"X-Load-Body"
_MOST_DOMAINS = 1_000_000
#: At least: the fields, and a line.
_SMALLEST_BYTES, _LARGEST_BYTES = 300, 1024**3
#: Choices are made ahead, this many; then they come again.
_CHOICES = 1 << 14


class Mix(NamedTuple):
    """Each with its weight.  The same choices on every run."""

    sizes: tuple[tuple[int, float], ...] = ((4096, 1.0),)
    domains: tuple[tuple[str, float], ...] = (("sink.example", 1.0),)
    #: Of each message; each is of a domain of its own choice.
    recipients: int = 1

    @classmethod
    def of(cls, told: dict[str, Any]) -> "Mix":
        """From its _asdict() that was JSON."""
        sizes, domains = (tuple(map(tuple, told[name])) for name in ("sizes", "domains"))
        return cls(sizes, domains, told["recipients"])


class Letters:
    """Messages of `mix`, by number; `run` tells them from those of other runs."""

    def __init__(self, mix: Mix, run: str) -> None:
        self._recipients = mix.recipients
        self._run = run
        chance = random.Random(5321)
        self._contents = [_content(size_bytes) for size_bytes, _ in mix.sizes]
        self._sizes = _choices(chance, [weight for _, weight in mix.sizes])
        self._domains = [name for name, _ in mix.domains]
        self._chosen = _choices(chance, [weight for _, weight in mix.domains])

    def commands(self, number: int) -> list[bytes]:
        """MAIL, each RCPT, DATA."""
        size_bytes = len(self._contents[self._sizes[number % _CHOICES]]) + len(self._head(number))
        first = number * self._recipients
        mailboxes = [
            f"r{one}@{self._domains[self._chosen[one % _CHOICES]]}"
            for one in range(first, first + self._recipients)
        ]
        mail = f"MAIL FROM:<s@source.example> SIZE={size_bytes}\r\n"
        recipients = [f"RCPT TO:<{mailbox}>\r\n" for mailbox in mailboxes]
        return [command.encode() for command in (mail, *recipients, "DATA\r\n")]

    def content(self, number: int) -> bytes:
        """As it goes over the wire, the final dot included."""
        return self._head(number) + self._contents[self._sizes[number % _CHOICES]]

    def _head(self, number: int) -> bytes:
        return b"%s: <%d.%s@source.example>\r\n" % (IDENTITY, number, self._run.encode())


def _content(size_bytes: int) -> bytes:
    """What follows the first field."""
    digest = b"%s: %s\r\n" % (BODY_DIGEST, b"0" * 64)
    content = text_content(max(0, size_bytes - len(digest) - 40))
    body = content.partition(b"\r\n\r\n")[2]
    return digest.replace(b"0" * 64, hashlib.sha256(body).hexdigest().encode()) + wire_content(
        content
    )


def _choices(chance: random.Random, weights: Sequence[float]) -> list[int]:
    """Numbers of the weights, as often as these say; one after the other where all are equal."""
    if len(set(weights)) == 1:
        return [number % len(weights) for number in range(_CHOICES)]
    return chance.choices(range(len(weights)), cum_weights=list(accumulate(weights)), k=_CHOICES)


def read_sizes(text: str) -> tuple[tuple[int, float], ...]:
    """`"2K:50,1M:10"` → ((2048, 50.0), (1048576, 10.0))."""
    sizes = []
    for word, weight in _weighted(text):
        size_bytes = read_size(word)
        if not _SMALLEST_BYTES <= size_bytes <= _LARGEST_BYTES:
            raise ValueError(f"has a size outside {_SMALLEST_BYTES}..1G")
        sizes.append((size_bytes, weight))
    return tuple(sizes)


def read_domains(text: str) -> tuple[tuple[str, float], ...]:
    """`"example.com:3,example.net"` → (("example.com", 3.0), ("example.net", 1.0)); a number is
    one of domains d0.example and so on."""
    if text.isdecimal():
        return tuple((name, 1.0) for name in made_domains(int(text)))
    return tuple(_weighted(text))


def made_domains(count: int) -> list[str]:
    """d0.example and so on, which `gwrelay bench dns` knows."""
    if not 1 <= count <= _MOST_DOMAINS:
        raise ValueError(f"is outside 1..{_MOST_DOMAINS}")
    return [f"d{number}.example" for number in range(count)]


def _weighted(text: str) -> list[tuple[str, float]]:
    found = []
    for part in text.split(","):
        word, colon, weight = part.strip().partition(":")
        if not word or any(one.isspace() or one in "<>@" for one in word):
            raise ValueError("has an empty or impossible part")
        found.append((word, _weight(weight) if colon else 1.0))
    return found


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = 0.0
    if not 0 < weight < float("inf"):
        raise ValueError(f"has the weight {text!r}")
    return weight
