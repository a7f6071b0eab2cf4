"""What arrived at a sink: how often each message did, whether it was whole, and what was in it.

A message is known by its Message-ID, or by what it says where it has none; it came again when the
same one came for the same recipient.  Values in, values out, but for the counters.
"""

import hashlib
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, MutableSequence
from typing import Any, NamedTuple

from gwrelay_bench.ledger import AGAIN, ARRIVED, BYTES, RECIPIENTS, SPOILT
from gwrelay_bench.mix import BODY_DIGEST, IDENTITY
from gwrelay_bench.sinksession import Arrival

_FIELD = rb"^%s:[ \t]*(\S+)[ \t]*\r?$"
_IDENTITY = re.compile(_FIELD % IDENTITY, re.IGNORECASE | re.MULTILINE)
_DIGEST = re.compile(_FIELD % BODY_DIGEST, re.IGNORECASE | re.MULTILINE)
_HEADER_END = b"\r\n\r\n"


class Known(NamedTuple):
    """One message, as it is recorded."""

    identity: str
    #: SHA-256 of the body, which relays leave as it is.
    digest: bytes
    is_whole: bool


class Tally:
    """`counters` are of a ledger."""

    def __init__(self, counters: MutableSequence[int] | memoryview) -> None:
        self._counters = counters
        #: By message and recipient: eight bytes of a digest of both.
        self.times: dict[int, int] = {}
        self.contents: Counter[bytes] = Counter()

    def note(self, arrival: Arrival) -> Known:
        """`arrival` has its content."""
        content = arrival.content or b""
        known = known_by(content)
        counters, times = self._counters, self.times
        counters[ARRIVED] += 1
        counters[BYTES] += len(content)
        counters[RECIPIENTS] += len(arrival.recipients)
        counters[SPOILT] += not known.is_whole
        self.contents[known.digest] += 1
        for recipient in arrival.recipients:
            key = _key(known.identity, recipient)
            before = times.get(key, 0)
            times[key] = before + 1
            counters[AGAIN] += before > 0
        return known

    def told(self) -> dict[str, Any]:
        """For merged(); as JSON has it."""
        return {
            "keys": array("Q", self.times.keys()).tobytes().hex(),
            "times": array("Q", self.times.values()).tobytes().hex(),
            "contents": {digest.hex(): count for digest, count in self.contents.items()},
        }


def known_by(content: bytes) -> Known:
    header, _, body = content.partition(_HEADER_END)
    digest = hashlib.sha256(body)
    said = _IDENTITY.search(header)
    identity = said[1].decode("utf-8", "replace") if said else hashlib.sha256(content).hexdigest()
    wanted = _DIGEST.search(header)
    is_whole = wanted is None or wanted[1].decode("ascii", "replace") == digest.hexdigest()
    return Known(identity, digest.digest(), is_whole)


def merged(told: Iterable[Mapping[str, Any]]) -> tuple[int, int, Counter[str]]:
    """Of all processes: recipients that got a message, how often one came again, and bodies by
    their SHA-256, each with how many had it."""
    times: Counter[int] = Counter()
    contents: Counter[str] = Counter()
    for one in told:
        keys, counts = array("Q"), array("Q")
        keys.frombytes(bytes.fromhex(one["keys"]))
        counts.frombytes(bytes.fromhex(one["times"]))
        for key, count in zip(keys, counts, strict=True):
            times[key] += count
        contents.update(one["contents"])
    return len(times), times.total() - len(times), contents


def _key(identity: str, recipient: str) -> int:
    words = f"{identity}\0{recipient.lower()}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "big")
