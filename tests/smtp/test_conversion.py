"""8-bit content for a next hop that takes none: what is encoded, and what is left alone."""

import email
import email.policy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwrelay.smtp.conversion import to_7bit

TEXT = "Grüße aus Köln\r\n.\r\nFrom here \r\n" + "ä" * 400 + "\r\n"


def converted(content: bytes, step: int = 1000) -> bytes | None:
    pieces = [content[at : at + step] for at in range(0, len(content), step)]
    return to_7bit(pieces, lambda: None)


def parts(content: bytes) -> list[tuple[str, bytes]]:
    """Type and decoded bytes of each part that has no parts."""
    message = email.message_from_bytes(content)
    return [
        (part.get_content_type(), part.get_payload(decode=True))
        for part in message.walk()
        if not part.is_multipart()
    ]


def lines_are_short(content: bytes) -> bool:
    return all(len(line) <= 998 for line in content.split(b"\r\n"))


MIXED = (
    b"MIME-Version: 1.0\r\nSubject: two parts\r\n  folded\r\n"
    b'Content-Type: multipart/mixed; boundary="b"\r\nContent-Transfer-Encoding: 8bit\r\n\r\n'
    b"--b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    + TEXT.encode()
    + b"\r\n--b\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: binary\r\n"
    b"\r\n\x80\x81\xff\r\n.\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nplain ASCII = fine\r\n"
    b"--b--\r\n"
)
NESTED = (
    b"MIME-Version: 1.0\r\nContent-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    + MIXED
)
SIGNED = MIXED.replace(b"multipart/mixed", b"multipart/signed; protocol=x/y; micalg=z")


@pytest.mark.parametrize("content", [MIXED, NESTED], ids=["mixed", "nested"])
@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_every_part_says_the_same_in_7_bits(content: bytes, step: int) -> None:
    found = converted(content, step)
    assert found is not None
    assert found.isascii()
    assert lines_are_short(found)
    assert parts(found) == parts(content)
    assert b"8bit" not in found
    assert b"binary" not in found
    assert b"\r\nSubject: two parts\r\n  folded\r\n" in found
    assert b"plain ASCII = fine" in found, "what was 7-bit stays as it was"
    assert b"\n" not in found.replace(b"\r\n", b"")


def test_text_becomes_quoted_printable_and_the_rest_base64() -> None:
    found = converted(MIXED)
    assert found is not None
    encodings = [
        part.get("Content-Transfer-Encoding") for part in email.message_from_bytes(found).walk()
    ]
    assert encodings == ["7bit", "quoted-printable", "base64", None]


@pytest.mark.parametrize(
    ("body", "charset"), [(TEXT.encode(), "utf-8"), (b"\xe4\r\n", "unknown-8bit")]
)
def test_mail_without_mime_is_given_what_it_needs(body: bytes, charset: str) -> None:
    found = converted(b"Subject: old\r\n\r\n" + body)
    assert found is not None
    message = email.message_from_bytes(found)
    assert message["MIME-Version"] == "1.0"
    assert message.get_content_charset() == charset
    assert message.get_payload(decode=True) == body


REFUSED = {
    "a signed part": SIGNED,
    "a header field": b"Subject: Gr\xc3\xbc\xc3\x9fe\r\n\r\nhello\r\n",
    "a header field of a part": MIXED.replace(b"boundary=", b"x=\xe4; boundary="),
    "between the parts": MIXED.replace(b"\r\n\r\n--b", "\r\n\r\nGrüße\r\n--b".encode(), 1),
    "a multipart without boundary": b"Content-Type: multipart/mixed\r\n\r\n\xe4\r\n",
    "a partial message": b"Content-Type: message/partial\r\n\r\n\xe4\r\n",
    "a part that claims base64": b"Content-Transfer-Encoding: base64\r\n\r\n\xe4\r\n",
    "a bomb": b"".join(
        b'Content-Type: multipart/mixed; boundary="%d"\r\n\r\n--%d\r\n' % (n, n)
        for n in range(3000)
    )
    + b"\r\n\xe4\r\n",
}


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED.keys())
def test_what_may_not_be_encoded_is_not(content: bytes) -> None:
    assert converted(content) is None


@given(st.lists(st.sampled_from([b"\r\n", b".", b" ", b"=", b"\xc3\xa4", b"\xff", b"\0", b"x"])))
def test_any_text_comes_back(pieces: list[bytes]) -> None:
    head = b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
    body = b"".join(pieces)
    found = converted(head + body)
    assert found is not None
    assert found.isascii()
    assert parts(found) == [("text/plain", body)]


def test_a_large_message_is_converted_in_steps() -> None:
    pauses: list[None] = []
    content = b"Subject: x\r\n\r\n" + TEXT.encode() * 1000
    assert to_7bit([content], lambda: pauses.append(None)) is not None
    assert len(pauses) > len(content) // (64 * 1024)
