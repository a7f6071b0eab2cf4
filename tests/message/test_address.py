"""The grammar of mailboxes: taken byte for byte, or refused (RFC 5321 4.1.2, RFC 6531)."""

import idna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwrelay.message.address import (
    AddressError,
    ascii_domain,
    domain_of,
    parse_forward_path,
    parse_reverse_path,
)


@pytest.mark.parametrize(
    "address",
    [
        "a@b",
        "a.b.c@d.e.f",
        "!#$%&'*+-/=?^_`{|}~@b.c",
        "1@2.3",
        "l" * 64 + "@b.c",
        "l" * 200 + "@b.c",
        "a@" + "d" * 63 + ".c",
        "a@xn--bcher-kva.example",
        "a@b--c.d",
        "a@_dmarc.b.c",
        "a@b.c.",
        '""@b.c',
        '" "@b.c',
        r'"\""@b.c',
        r'"\\"@b.c',
        r'"a\ b"@b.c',
        '"a.b.."@b.c',
    ],
)
def test_a_mailbox_is_kept_as_it_was_written(address: str) -> None:
    assert parse_reverse_path(address.encode()) == address
    assert parse_forward_path(address.encode()) == address
    assert parse_forward_path(address.encode(), smtputf8=True) == address


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("@r:u@d", "u@d"),
        ("@r.example,@s.example:u@d", "u@d"),
        ('@r:"@x:y"@d', '"@x:y"@d'),
    ],
)
def test_a_source_route_is_taken_off(path: str, address: str) -> None:  # faults 36
    assert parse_forward_path(path.encode()) == address
    assert parse_reverse_path(path.encode()) == address


@pytest.mark.parametrize("path", ["@r:", "@:u@d", "@r;u@d", "@r,:u@d", "@r,s:u@d", "r:u@d", ":u@d"])
def test_a_broken_source_route_is_refused(path: str) -> None:
    with pytest.raises(AddressError):
        parse_forward_path(path.encode())


@pytest.mark.parametrize("character", range(128))
def test_outside_quotes_exactly_the_atom_characters_may_stand(character: int) -> None:
    address = f"a{chr(character)}b@c.d"
    if chr(character).isalnum() or chr(character) in "!#$%&'*+-/=?^_`{|}~.":
        assert parse_forward_path(address.encode()) == address
    else:
        with pytest.raises(AddressError) as caught:
            parse_forward_path(address.encode())
        assert (caught.value.reply.code, caught.value.reply.status) == (501, "5.1.3")


@pytest.mark.parametrize("character", range(128))
def test_inside_quotes_anything_printable_may_stand(character: int) -> None:
    address = f'"a{chr(character)}b"@c.d'
    if (32 <= character < 127 and chr(character) not in '"\\') or chr(character) == "\\":
        assert parse_forward_path(address.encode()) == address
    else:
        with pytest.raises(AddressError):
            parse_forward_path(address.encode())


@pytest.mark.parametrize("character", range(128))
def test_in_domains_only_letters_digits_hyphens_underscores_and_dots_stand(character: int) -> None:
    address = f"a@b{chr(character)}c"
    if chr(character).isalnum() or chr(character) in "-_.":
        assert parse_forward_path(address.encode()) == address
    else:
        with pytest.raises(AddressError):
            parse_forward_path(address.encode())


@pytest.mark.parametrize(
    ("path", "smtputf8", "code", "sender_status", "recipient_status"),
    [
        (b"nonsense", False, 501, "5.1.7", "5.1.3"),
        (b"a@b c", False, 501, "5.1.7", "5.1.3"),
        (b"l" * 251 + b"@b.c", False, 501, "5.1.7", "5.1.3"),
        (b"a@[999.1.1.1]", False, 501, "5.1.7", "5.1.3"),
        ("ü@b.c".encode(), False, 553, "5.6.7", "5.6.7"),
        (b"\xff@b.c", False, 553, "5.6.7", "5.6.7"),
        (b"\xff@b.c", True, 501, "5.1.7", "5.1.3"),
        ("a@\u0378.c".encode(), True, 553, "5.1.7", "5.1.3"),
        ("a@-ü.c".encode(), True, 501, "5.1.7", "5.1.3"),
    ],
)
def test_each_fault_has_its_code_and_status(
    path: bytes, smtputf8: bool, code: int, sender_status: str, recipient_status: str
) -> None:
    with pytest.raises(AddressError) as sender:
        parse_reverse_path(path, smtputf8=smtputf8)
    with pytest.raises(AddressError) as recipient:
        parse_forward_path(path, smtputf8=smtputf8)
    assert sender.value.reply[:2] == (code, sender_status)
    assert recipient.value.reply[:2] == (code, recipient_status)


def test_the_longest_mailbox_has_254_octets() -> None:  # faults 39
    domain = ".".join(["d" * 63, "e" * 63, "f" * 61])
    assert parse_forward_path(f"{'l' * 64}@{domain}".encode())
    with pytest.raises(AddressError, match="too long"):
        parse_forward_path(f"{'l' * 65}@{domain}".encode())


def test_octets_are_counted_not_characters() -> None:
    assert parse_forward_path(("ü" * 125 + "@b.c").encode(), smtputf8=True)
    with pytest.raises(AddressError, match="too long"):
        parse_forward_path(("ü" * 126 + "@b.c").encode(), smtputf8=True)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"postmaster", "postmaster@gw.example"),
        (b"PostMaster", "PostMaster@gw.example"),
    ],
)
def test_postmaster_alone_belongs_to_the_local_domain(path: bytes, expected: str) -> None:
    assert parse_forward_path(path, local_domain="gw.example") == expected
    with pytest.raises(AddressError):
        parse_forward_path(path)
    with pytest.raises(AddressError):
        parse_reverse_path(path)


@pytest.mark.parametrize("literal", ["[1.2.3.4]", "[IPv6:::1]", "[ipv6:::ffff:1.2.3.4]"])
def test_an_address_literal_stands_for_a_domain(literal: str) -> None:
    assert parse_reverse_path(f"a@{literal}".encode()) == f"a@{literal}"
    assert parse_forward_path(f"a@{literal}".encode()) == f"a@{literal}"
    assert domain_of(f"a@{literal}") == literal.lower()


@pytest.mark.parametrize(
    "literal",
    [
        *("[]", "[1.2.3]", "[01.2.3.4]", "[1.2.3.4IPv6:]", "[1.2.3.4].", "[[1.2.3.4]]"),
        *("[::1]", "[IPv6:]", "[IPv6:1.2.3.4]", "[IPv6:fe80::1%eth0]", "[IPv6:IPv6:::1]"),
    ],
)
def test_what_is_no_address_literal_is_refused(literal: str) -> None:
    for parse, status in ((parse_reverse_path, "5.1.7"), (parse_forward_path, "5.1.3")):
        with pytest.raises(AddressError) as caught:
            parse(f"a@{literal}".encode())
        assert caught.value.reply[:2] == (501, status)


@pytest.mark.parametrize(
    ("address", "domain"),
    [
        ("", ""),
        ("a@b.c", "b.c"),
        ("a@B.C", "b.c"),
        ("a@b.c.", "b.c"),
        ("u%x@b.c", "b.c"),
        ('"a@evil"@b.c', "b.c"),
        ("a@[127.0.0.1]", "[127.0.0.1]"),
        ("ü@Bücher.example", "xn--bcher-kva.example"),
        ("ü@bücher.example.", "xn--bcher-kva.example"),
        ("a@xn--BCHER-kva.example", "xn--bcher-kva.example"),
    ],
)
def test_the_domain_that_routes_is_one_spelling(address: str, domain: str) -> None:  # faults 43
    assert domain_of(address) == domain


def test_only_case_is_mapped_in_an_international_domain() -> None:
    assert ascii_domain("BÜCHER.example") == "xn--bcher-kva.example"
    # A zero-width space, a full-width letter, a decomposed umlaut.
    for domain in ("b\u200bücher.example", "\uff42ücher.example", "bu\u0308cher.example"):
        with pytest.raises(idna.IDNAError):
            ascii_domain(domain)


def test_ascii_domain_refuses_what_no_registry_could_hold() -> None:
    with pytest.raises(idna.IDNAError):
        ascii_domain("ü" * 64)


@given(st.binary(max_size=300), st.booleans())
def test_no_bytes_make_the_parser_raise_anything_else(path: bytes, smtputf8: bool) -> None:
    for parse in (parse_reverse_path, parse_forward_path):
        try:
            address = parse(path, smtputf8=smtputf8)
        except AddressError:
            continue
        assert path.endswith(address.encode())


@given(st.text('a@"\\.<>:,[] ü', max_size=40), st.sampled_from(["@b.c", "@[1.2.3.4]", "@ü.d", ""]))
def test_what_is_taken_can_be_routed(start: str, end: str) -> None:
    try:
        address = parse_reverse_path((start + end).encode(), smtputf8=True)
    except AddressError:
        return
    assert domain_of(address).isascii()


@pytest.mark.parametrize(
    "path",
    [
        b"a." * 120_000,
        b'"' + b"\\a" * 120_000,
        b"@r," * 80_000,
        b"a@" + b"b." * 120_000 + b"-",
        b"a@" + b"-" * 250_000,
        b'"' * 250_000,
    ],
)
def test_hostile_length_costs_linear_time(path: bytes) -> None:
    # A quadratic match over this much would take minutes.
    with pytest.raises(AddressError):
        parse_forward_path(path)
