"""How commands print: JSON for programs, lines for people.  Pure, but for print_told()."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

import click
import msgspec

_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def print_told(told: Mapping[str, Any], lines: Iterable[str], *, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(told).decode())
    else:
        for line in lines:
            click.echo(line)


def at(seconds: float) -> str:
    """A time (Unix seconds)."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def span(seconds: float) -> str:
    """A duration in its two largest units: 3h12m."""
    left = max(0, round(seconds))
    largest = next((n for n, (size, _) in enumerate(_UNITS) if left >= size), len(_UNITS) - 1)
    words: list[str] = []
    for size, unit in _UNITS[largest : largest + 2]:
        count, left = divmod(left, size)
        if count or not words:
            words.append(f"{count}{unit}")
    return "".join(words)


def count(number: int, word: str) -> str:
    """1 delivery, 2 deliveries."""
    if number == 1:
        return f"1 {word}"
    return f"{number} {word[:-1]}ies" if word.endswith("y") else f"{number} {word}s"


def plain(text: str) -> str:
    """What a stranger wrote, on one line and harmless to a terminal."""
    return "".join(one if one.isprintable() else " " if one == "\n" else "?" for one in text)
