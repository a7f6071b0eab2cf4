"""8-bit content into 7-bit content, for a next hop without 8BITMIME (RFC 6152 3, RFC 2045 6).

Pure.  Only the encoding of body parts changes: text becomes quoted-printable, anything else
base64.  What may not be encoded is left to the caller to refuse: 8-bit header fields, signed
parts, and parts whose type allows no encoding.
"""

import base64
import binascii
import email.policy
import io
from collections.abc import Callable, Iterable
from email.generator import BytesGenerator
from email.message import Message
from email.parser import BytesFeedParser

#: The parser takes some ten times the size of what it reads.
MAX_CONVERTED_BYTES = 8 * 1024 * 1024

#: What is parsed in one go: a few milliseconds.
_STEP_BYTES = 64 * 1024

# Neither header fields nor lines are folded anew: what need not change stays as it is.
_POLICY = email.policy.compat32.clone(linesep="\r\n", max_line_length=0)

#: Parts that are their own encoding, in which 8-bit bytes have no business.
_UNENCODED = ("", "7bit", "8bit", "binary")


def to_7bit(pieces: Iterable[bytes], pause: Callable[[], None]) -> bytes | None:
    """The message in `pieces` without 8-bit bytes; None when its MIME structure forbids that.

    `pause` is called between steps, so that a large message holds nobody up.
    """
    parser = BytesFeedParser(policy=_POLICY)
    try:
        for piece in pieces:
            for start in range(0, len(piece), _STEP_BYTES):
                parser.feed(piece[start : start + _STEP_BYTES])
                pause()
        message = parser.close()
        if not _converted(message):
            return None
        pause()
        converted = _flat(message)
    except RecursionError:
        return None  # parts within parts within parts: a bomb
    return converted if converted.isascii() else None


def _flat(message: Message) -> bytes:
    if "MIME-Version" not in message:
        message["MIME-Version"] = "1.0"
    octets = io.BytesIO()
    BytesGenerator(octets, mangle_from_=False, maxheaderlen=0, policy=_POLICY).flatten(message)
    return octets.getvalue()


def _converted(part: Message) -> bool:
    """Encode what is 8-bit in `part`, in place; whether that was allowed."""
    if not part.is_multipart():
        return _leaf_converted(part)
    # What was signed is no longer signed once it is encoded anew, and of the kinds of message/
    # only this one has parts that may be (RFC 2045 6.4, 2046 5.2).
    kind = part.get_content_type()
    is_fixed = kind == "multipart/signed" or (
        kind.startswith("message/") and kind != "message/rfc822"
    )
    if is_fixed and not part.as_bytes(policy=_POLICY).isascii():
        return False
    if "Content-Transfer-Encoding" in part:
        part.replace_header("Content-Transfer-Encoding", "7bit")
    children: list[Message] = part.get_payload()  # type: ignore[assignment]
    return all(map(_converted, children))


def _leaf_converted(part: Message) -> bool:
    encoding = str(part.get("Content-Transfer-Encoding", "")).strip().lower()
    if encoding not in _UNENCODED:
        return True  # and if it has 8-bit bytes nevertheless, the result shows it
    octets = part.get_payload(decode=True)
    if not isinstance(octets, bytes) or octets.isascii():
        return True
    main_type = part.get_content_maintype()
    if main_type in ("multipart", "message"):
        return False  # RFC 2045 6.4: no encoding but 7bit, 8bit and binary
    if "Content-Type" not in part:
        part["Content-Type"] = f"text/plain; charset={_charset(octets)}"
    if main_type == "text":
        encoding, encoded = "quoted-printable", binascii.b2a_qp(octets, istext=True)
    else:
        encoding, encoded = "base64", base64.encodebytes(octets).replace(b"\n", b"\r\n")
    del part["Content-Transfer-Encoding"]
    part["Content-Transfer-Encoding"] = encoding
    part.set_payload(encoded.decode("ascii"))
    return True


def _charset(octets: bytes) -> str:
    """Of text that does not say (RFC 1428 3)."""
    try:
        octets.decode()
    except UnicodeDecodeError:
        return "unknown-8bit"
    return "utf-8"
