"""MAIL and RCPT: addresses as the session answers them, and their parameters."""

import pytest

from gwrelay.message.envelope import Envelope, Recipient
from gwrelay.smtp.session import Policy
from support.dialogue import POLICY, converse

EHLO = b"EHLO client.example\r\n"
MAIL = b"MAIL FROM:<a@b.example>\r\n"
ENDING = b"\r\nDATA\r\n.\r\n"


def mail(argument: str | bytes, policy: Policy = POLICY) -> tuple[str, Envelope | None]:
    """The reply to MAIL with this argument, and the envelope that came of it."""
    raw = argument.encode() if isinstance(argument, str) else argument
    text = EHLO + b"MAIL " + raw + b"\r\nRCPT TO:<c@d.example>" + ENDING
    heard = converse(text, policy)
    return heard.codes[1], heard.messages[0][0] if heard.messages else None


def rcpt(argument: str | bytes, mail_parameters: bytes = b"") -> tuple[str, Recipient | None]:
    """The reply to RCPT with this argument, and the recipient that came of it."""
    raw = argument.encode() if isinstance(argument, str) else argument
    text = EHLO + b"MAIL FROM:<a@b.example>" + mail_parameters + b"\r\nRCPT " + raw + ENDING
    heard = converse(text)
    return heard.codes[2], heard.messages[0][0].recipients[0] if heard.messages else None


# Addresses.  tests/message/test_address.py has the grammar; here is what the client hears.

TAKEN = [
    "a@b.c",
    "a@b",
    "A.B+tag=x@Sub-Domain.EXAMPLE",
    "u%evil@b.c",
    "x!y!u@b.c",
    "`id`|x${}~^#@b.c",
    "/etc/passwd@b.c",
    '"$(id); ../../x"@b.c',
    '"a b"@c.d',
    '"a@evil"@c.d',
    '"<x>"@c.d',
    '""@c.d',
    '"."@c.d',
    '"a> SIZE=1 X="@c.d',
    '"a\\"> b\\\\"@c.d',
    "a@b.c.",
    "a@EXAMPLE.COM",
    "a@my_host.example",
    "l" * 65 + "@b.c",
]


@pytest.mark.parametrize("address", TAKEN)
@pytest.mark.parametrize("spelling", ["<{}>", " <{}>", "<@r.example,@s.example:{}>"])
def test_a_good_address_is_passed_on_byte_for_byte(address: str, spelling: str) -> None:
    # faults 34-37, 41-43; a source route is taken off, and nothing else.
    path = spelling.format(address)
    code, envelope = mail(f"FROM:{path}")
    assert (code, envelope and envelope.reverse_path) == ("250 2.1.0", address)
    code, recipient = rcpt(f"TO:{path}")
    assert (code, recipient and recipient.address) == ("250 2.1.5", address)


NO_PATH = ["a@b.c", "a@b.c>", "<a@b.c", "<<a@b.c>>", "<a@b.c> <x@y.z>", "<a@b.c>SIZE=1", ""]
NO_ADDRESS = [
    *("a", "@b.c", "a@", "a@@b.c", "a@b@c.d", "a b@c.d", "a,b@c.d", "a(b)@c.d", "a;b@c.d"),
    *(".a@b.c", "a.@b.c", "a..b@c.d", "a@b..c", "a@.b.c", "a@-b.c", "a@b-.c", "a@b.c:25"),
    *('"a"b@c.d', '"a@c.d', 'a"b"@c.d', '"a""b"@c.d', "a@b c.d", " a@b.c", "a@b.c "),
    *("a\t@b.c", "\0@b.c", "a\0@b.c", "a\x7f@b.c", "a\x1b[1m@b.c", '"a\0"@b.c', "a@b\0.c"),
    *("@r:", "@r,u@d", "@r:@s:u@d.e", "a@[1.2.3]", "a@[1.2.3.256]", "a@[IPv6:1::2::3]"),
    *("a@[::1]", "a@[IPv6:1.2.3.4]", "a@[1.2.3.4", "a@1.2.3.4]", "a@[x-tag:y]"),
    *("a@" + "l" * 64 + ".c", "l" * 251 + "@b.c", "a@" + "b." * 130 + "c"),
]


@pytest.mark.parametrize("path", NO_PATH)
def test_an_argument_that_holds_no_path_is_bad_syntax(path: str) -> None:  # faults 25, 32
    assert mail(f"FROM:{path}") == ("501 5.5.4", None)
    assert rcpt(f"TO:{path}") == ("501 5.5.4", None)


@pytest.mark.parametrize("address", NO_ADDRESS)
def test_a_bad_address_is_refused_with_its_own_status(address: str) -> None:
    # faults 32, 33, 36, 39, 40, 42
    code, envelope = mail(f"FROM:<{address}>")
    assert envelope is None
    assert code in ("501 5.1.7", "501 5.5.4")
    code, recipient = rcpt(f"TO:<{address}>")
    assert recipient is None
    assert code in ("501 5.1.3", "501 5.5.4")


def test_the_null_path_is_a_sender_but_no_recipient() -> None:
    code, envelope = mail("FROM:<>")
    assert (code, envelope and envelope.reverse_path) == ("250 2.1.0", "")
    assert rcpt("TO:<>") == ("501 5.1.3", None)


def test_an_address_literal_is_a_sender_and_a_recipient() -> None:  # faults 42
    for literal in ("[127.0.0.1]", "[IPv6:::1]", "[IPv6:2001:db8::25]"):
        assert mail(f"FROM:<a@{literal}>")[0] == "250 2.1.0"
        code, recipient = rcpt(f"TO:<a@{literal}>")
        assert (code, recipient and recipient.address) == ("250 2.1.5", f"a@{literal}")


def test_postmaster_alone_is_a_recipient_but_no_sender() -> None:
    assert mail("FROM:<postmaster>") == ("501 5.1.7", None)
    code, recipient = rcpt("TO:<POSTMASTER>")
    assert (code, recipient and recipient.address) == ("250 2.1.5", "POSTMASTER@gw.example")


@pytest.mark.parametrize("address", ["ü@b.c", "a@bücher.example", '"ü x"@b.c', "用户@例子.广告"])
def test_utf8_is_an_address_only_with_smtputf8(address: str) -> None:  # faults 38
    assert mail(f"FROM:<{address}>") == ("553 5.6.7", None)
    assert rcpt(f"TO:<{address}>") == ("553 5.6.7", None)

    code, envelope = mail(f"FROM:<{address}> SMTPUTF8")
    assert (code, envelope and envelope.reverse_path) == ("250 2.1.0", address)
    code, recipient = rcpt(f"TO:<{address}>", b" SMTPUTF8")
    assert (code, recipient and recipient.address) == ("250 2.1.5", address)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"\xff@b.c", "501"),
        (b"\xc0\xaf@b.c", "501"),
        (b"\xed\xa0\x80@b.c", "501"),
        ("a\u0085@b.c".encode(), "501"),
        ("a\u2028b@b.c".encode(), "501"),
        ("a@b\u200bc.d".encode(), "553"),
        ("a@" + "ü" * 63 + ".d", "553"),
        ("a@b\uff20c.d", "553"),
        ("ü" * 126 + "@b.c", "501"),
    ],
)
def test_bad_utf8_is_refused_even_with_smtputf8(raw: bytes | str, expected: str) -> None:
    address = raw.encode() if isinstance(raw, str) else raw
    assert mail(b"FROM:<" + address + b"> SMTPUTF8") == (f"{expected} 5.1.7", None)
    assert rcpt(b"TO:<" + address + b">", b" SMTPUTF8") == (f"{expected} 5.1.3", None)


# Parameters.


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("", Envelope("a@b.c", ())),
        ("SIZE=1000000", Envelope("a@b.c", ())),
        ("size=0", Envelope("a@b.c", ())),
        ("SIZE=00000000000000000001", Envelope("a@b.c", ())),
        ("BODY=7BIT", Envelope("a@b.c", ())),
        ("Body=8BitMIME SIZE=5", Envelope("a@b.c", ())),
        ("SMTPUTF8", Envelope("a@b.c", ())),
        ("smtputf8 SIZE=7", Envelope("a@b.c", ())),
        ("RET=FULL", Envelope("a@b.c", (), ret="FULL")),
        ("ret=hdrs", Envelope("a@b.c", (), ret="HDRS")),
        ("ENVID=QQ314159", Envelope("a@b.c", (), envid="QQ314159")),
        ("ENVID=a+2Bb+3Dc", Envelope("a@b.c", (), envid="a+2Bb+3Dc")),
        ("ENVID=" + "x" * 100, Envelope("a@b.c", (), envid="x" * 100)),
        ("  RET=FULL   ENVID=x ", Envelope("a@b.c", (), ret="FULL", envid="x")),
        (
            "SIZE=1 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=e",
            Envelope("a@b.c", (), "7BIT", False, "HDRS", "e"),
        ),
    ],
)
def test_mail_parameters_are_kept(parameters: str, expected: Envelope) -> None:
    code, envelope = mail(f"FROM:<a@b.c> {parameters}")
    assert code == "250 2.1.0"
    assert envelope is not None
    assert envelope._replace(recipients=()) == expected


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("SIZE=1000001", "552 5.3.4"),  # faults 29
        ("SIZE=99999999999999999999", "552 5.3.4"),
        ("SIZE=100000000000000000000", "501 5.5.4"),  # faults 31: at most 20 digits
        ("SIZE=" + "9" * 500, "501 5.5.4"),
        ("SIZE", "501 5.5.4"),
        ("SIZE=", "501 5.5.4"),
        ("SIZE=abc", "501 5.5.4"),
        ("SIZE=-1", "501 5.5.4"),
        ("SIZE=+1", "501 5.5.4"),
        ("SIZE=1_0", "501 5.5.4"),
        ("SIZE=0x10", "501 5.5.4"),
        ("SIZE=1.0", "501 5.5.4"),
        ("SIZE=١٢", "501 5.5.4"),
        ("SIZE=1 SIZE=1", "501 5.5.4"),
        ("SIZE=1\tBODY=7BIT", "501 5.5.4"),
        ("BODY", "501 5.5.4"),
        ("BODY=BINARYMIME", "501 5.5.4"),
        ("BODY=9BIT", "501 5.5.4"),
        ("SMTPUTF8=yes", "501 5.5.4"),
        ("SMTPUTF8=", "501 5.5.4"),
        ("RET", "501 5.5.4"),
        ("RET=SOME", "501 5.5.4"),
        ("RET=FULL RET=HDRS", "501 5.5.4"),
        ("ENVID=", "501 5.5.4"),
        ("ENVID=a=b", "501 5.5.4"),
        ("ENVID=a+", "501 5.5.4"),
        ("ENVID=a+2b", "501 5.5.4"),
        ("ENVID=a+0Ab", "501 5.5.4"),
        ("ENVID=a+7Fb", "501 5.5.4"),
        ("ENVID=a\x00b", "501 5.5.4"),
        ("ENVID=é", "501 5.5.4"),
        ("ENVID=" + "x" * 101, "501 5.5.4"),
        ("AUTH=<>", "555 5.5.4"),  # faults 28
        ("NOTIFY=NEVER", "555 5.5.4"),
        ("X-UNKNOWN", "555 5.5.4"),
        ("X-UNKNOWN=1", "555 5.5.4"),
        ("=1", "501 5.5.4"),
        ("-X=1", "501 5.5.4"),
        ("X_Y=1", "501 5.5.4"),
        ("é=1", "501 5.5.4"),
    ],
)
def test_bad_mail_parameters_are_refused(parameters: str, expected: str) -> None:
    assert mail(f"FROM:<a@b.c> {parameters}") == (expected, None)


@pytest.mark.parametrize(
    ("parameters", "notify", "orcpt"),
    [
        ("NOTIFY=NEVER", "NEVER", ""),
        ("notify=success,Failure,DELAY", "SUCCESS,FAILURE,DELAY", ""),
        ("NOTIFY=DELAY ORCPT=rfc822;Bob@x.y", "DELAY", "rfc822;Bob@x.y"),
        ("ORCPT=rfc822;Bob+2Bx@x.y", "", "rfc822;Bob+2Bx@x.y"),
        ("ORCPT=x400;+2FC+3Dgb", "", "x400;+2FC+3Dgb"),
        ("ORCPT=utf-8;b\\x{FC}@x.y", "", "utf-8;b\\x{FC}@x.y"),
    ],
)
def test_rcpt_parameters_are_kept(parameters: str, notify: str, orcpt: str) -> None:
    code, recipient = rcpt(f"TO:<c@d.e> {parameters}")
    assert (code, recipient) == ("250 2.1.5", Recipient("c@d.e", notify, orcpt))


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("NOTIFY", "501 5.5.4"),
        ("NOTIFY=", "501 5.5.4"),
        ("NOTIFY=ALWAYS", "501 5.5.4"),
        ("NOTIFY=NEVER,DELAY", "501 5.5.4"),
        ("NOTIFY=DELAY,NEVER", "501 5.5.4"),
        ("NOTIFY=DELAY,", "501 5.5.4"),
        ("NOTIFY=DELAY NOTIFY=DELAY", "501 5.5.4"),
        ("ORCPT", "501 5.5.4"),
        ("ORCPT=bob@x.y", "501 5.5.4"),
        ("ORCPT=rfc822;", "501 5.5.4"),
        ("ORCPT=;x", "501 5.5.4"),
        ("ORCPT=rfc822;a+b", "501 5.5.4"),
        ("ORCPT=rfc822;a=b", "501 5.5.4"),
        ("ORCPT=rfc822;a+0D+0Ab", "501 5.5.4"),
        ("ORCPT=rfc822;a\x01b", "501 5.5.4"),
        ("ORCPT=rfc822;ü@x.y", "501 5.5.4"),
        ("ORCPT=utf-8;ü@x.y", "501 5.5.4"),
        ("ORCPT=rfc822;" + "x" * 494, "501 5.5.4"),
        ("RET=FULL", "555 5.5.4"),
        ("SIZE=1", "555 5.5.4"),
        ("X=1", "555 5.5.4"),
    ],
)
def test_bad_rcpt_parameters_are_refused(parameters: str, expected: str) -> None:
    assert rcpt(f"TO:<c@d.e> {parameters}") == (expected, None)


def test_orcpt_may_be_utf8_in_a_utf8_message() -> None:
    code, recipient = rcpt("TO:<c@d.e> ORCPT=utf-8;ü@x.y", b" SMTPUTF8")
    assert (code, recipient) == ("250 2.1.5", Recipient("c@d.e", "", "utf-8;ü@x.y"))
    assert rcpt("TO:<c@d.e> ORCPT=rfc822;ü@x.y", b" SMTPUTF8")[0] == "501 5.5.4"
    assert rcpt(b"TO:<c@d.e> ORCPT=utf-8;\xff@x.y", b" SMTPUTF8")[0] == "501 5.5.4"


def test_a_refused_rcpt_leaves_the_others() -> None:
    text = EHLO + MAIL + b"RCPT TO:<a@d.e>\r\nRCPT TO:<bad>\r\nRCPT TO:<b@d.e>" + ENDING
    heard = converse(text)
    assert heard.codes[2:] == ["250 2.1.5", "501 5.1.3", "250 2.1.5", "354", "250 2.0.0"]
    assert [r.address for r in heard.messages[0][0].recipients] == ["a@d.e", "b@d.e"]


def test_a_refused_mail_opens_no_transaction() -> None:
    heard = converse(EHLO + b"MAIL FROM:<bad>\r\nRCPT TO:<a@d.e>" + ENDING[:-3])
    assert heard.codes[1:] == ["501 5.1.7", "503 5.5.1", "503 5.5.1"]


@pytest.mark.parametrize("keyword", ["SIZE=5", "size=5", "Size=5"])
@pytest.mark.parametrize("prefix", ["FROM:", "from:", "From:"])
def test_the_quick_way_and_the_long_way_say_the_same(prefix: str, keyword: str) -> None:
    assert mail(f"{prefix}<a.b@c.d> {keyword}") == mail(f"FROM:<a.b@c.d> BODY=7BIT {keyword}")
