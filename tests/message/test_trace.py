"""The Received field: whole, folded, and out of the client's hands (RFC 5321 4.4)."""

import email.policy
from email import message_from_bytes
from email.utils import parsedate_to_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwrelay.message.trace import received

ARRIVED_AT = 1_709_210_096.75  # 29 February 2024, 12:34:56.75 UTC


def field(
    helo: str = "client.example",
    client_address: str = "192.0.2.1",
    protocol: str = "ESMTP",
    arrived_at: float = ARRIVED_AT,
    recipient: str | None = None,
    protection: str = "",
) -> bytes:
    about = "gw.example", protocol, "0123456789abc", arrived_at, recipient, protection
    return received(helo, client_address, *about)


def test_the_field_says_who_brought_it_how_and_when() -> None:
    assert field(recipient="c@d.example") == (
        b"Received: from client.example ([192.0.2.1])\r\n"
        b"\tby gw.example with ESMTP id 0123456789abc\r\n"
        b"\tfor <c@d.example>;\r\n"
        b"\tThu, 29 Feb 2024 12:34:56 +0000\r\n"
    )


def test_the_field_says_which_tls_it_came_under() -> None:
    assert field(protocol="ESMTPS", protection="TLSv1.3 TLS_AES_256_GCM_SHA384") == (
        b"Received: from client.example ([192.0.2.1])\r\n"
        b"\t(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384)\r\n"
        b"\tby gw.example with ESMTPS id 0123456789abc;\r\n"
        b"\tThu, 29 Feb 2024 12:34:56 +0000\r\n"
    )


def test_without_a_single_recipient_it_names_none() -> None:
    assert field() == (
        b"Received: from client.example ([192.0.2.1])\r\n"
        b"\tby gw.example with ESMTP id 0123456789abc;\r\n"
        b"\tThu, 29 Feb 2024 12:34:56 +0000\r\n"
    )


@pytest.mark.parametrize(
    ("address", "written"),
    [
        ("192.0.2.1", b" ([192.0.2.1])"),
        ("2001:DB8::25", b" ([IPv6:2001:db8::25])"),
        ("::1", b" ([IPv6:::1])"),
        ("::ffff:192.0.2.1", b" ([192.0.2.1])"),
        ("fe80::1%eth0", b" ([IPv6:fe80::1])"),
        ("", b""),
        ("no address)\r\nX: y", b" ([no?address???X:?y])"),
    ],
)
def test_the_client_address_is_written_as_a_literal(address: str, written: bytes) -> None:
    first_line = field(client_address=address).split(b"\r\n")[0]
    assert first_line == b"Received: from client.example" + written


@pytest.mark.parametrize(
    ("helo", "written"),
    [
        ("[192.0.2.1]", b"[192.0.2.1]"),
        ("[IPv6:2001:db8::1]", b"[IPv6:2001:db8::1]"),
        ("my_host", b"my_host"),
        ("a;b(c)", b"a?b?c?"),
        ("x\r\nBcc: victim@d.e", b"x??Bcc:?victim?d.e"),
        ('"\\', b"??"),
        ("ü\0\x1b\x7f\u2028", b"?????"),
        ("", b"?"),
        ("x" * 5000, b"x" * 255),
    ],
)
def test_a_hostile_helo_name_stays_one_word(helo: str, written: bytes) -> None:  # faults 12
    assert field(helo=helo).startswith(b"Received: from " + written + b" ([192.0.2.1])\r\n")


@pytest.mark.parametrize(
    ("recipient", "protocol", "written"),
    [
        ("c@d.e", "SMTP", b"for <c@d.e>;"),
        ('"a> b"@d.e', "ESMTP", b'for <"a> b"@d.e>;'),
        ("ü@d.e", "UTF8SMTP", "for <ü@d.e>;".encode()),
        ("ü@d.e", "ESMTP", None),
        ("a\r\nX: y@d.e", "ESMTP", None),
        ("a\u2028b@d.e", "UTF8SMTP", None),
        ("", "ESMTP", None),
    ],
)
def test_the_recipient_is_named_only_where_it_fits(
    recipient: str, protocol: str, written: bytes | None
) -> None:
    line = field(recipient=recipient, protocol=protocol).split(b"\r\n")[2].strip()
    assert line == (written or b"Thu, 29 Feb 2024 12:34:56 +0000")


@pytest.mark.parametrize("arrived_at", [0, 1, 86_399.999, ARRIVED_AT, 1_735_689_599, 4_102_444_800])
def test_the_date_is_the_second_in_utc(arrived_at: float) -> None:
    date = field(arrived_at=arrived_at).rpartition(b";\r\n\t")[2].decode().strip()
    assert date.endswith(" +0000")
    assert parsedate_to_datetime(date).timestamp() == int(arrived_at)


def test_a_day_of_one_digit_is_written_with_two() -> None:
    assert field(arrived_at=0).endswith(b"\r\n\tThu, 01 Jan 1970 00:00:00 +0000\r\n")


def test_messages_of_the_same_second_and_session_still_have_their_own_fields() -> None:
    first = received("c", "::1", "gw", "ESMTP", "one", ARRIVED_AT, "a@b.c")
    second = received("c", "::1", "gw", "ESMTP", "two", ARRIVED_AT + 1, "x@y.z")
    assert second == first.replace(b"one", b"two").replace(b"a@b.c", b"x@y.z").replace(
        b":56", b":57"
    )


@given(st.text(), st.text(), st.text())
def test_nothing_from_outside_can_end_the_field_or_add_another(
    helo: str, address: str, recipient: str
) -> None:
    written = received(helo, address, "gw.example", "UTF8SMTP", "id", ARRIVED_AT, recipient)
    lines = written.split(b"\r\n")
    assert lines.pop() == b""
    assert all(line.startswith(b"\t") for line in lines[1:])
    assert b"\r" not in b"".join(lines)
    assert b"\n" not in b"".join(lines)
    message = message_from_bytes(written + b"\r\nbody", policy=email.policy.SMTP)
    assert [name for name, _ in message.raw_items()] == ["Received"]
