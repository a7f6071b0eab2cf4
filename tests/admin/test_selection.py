"""Ids and predicates: what they pick, and what is no predicate."""

import pytest

from gwrelay.admin.selection import read_selection
from gwrelay.errors import ConfigError
from gwrelay.message.envelope import message_name
from support.mail import envelope

ENVELOPE = envelope("Bob@b.test", "ann@b.test", "x@C.test.", reverse_path="Me@A.test")


@pytest.mark.parametrize(
    ("words", "state", "destination", "taken"),
    [
        ("", "waiting", "b.test", True),
        ("state:WAITING", "waiting", "b.test", True),
        ("state:held", "waiting", "b.test", False),
        ("domain:B.test.", "waiting", "b.test", True),
        ("domain:b.test", "waiting", "sub.b.test", False),
        ("domain:b.test state:held", "waiting", "b.test", False),
        ("domain:[192.0.2.1]", "waiting", "[192.0.2.1]", True),
    ],
)
def test_state_and_domain_need_no_envelope(
    words: str, state: str, destination: str, taken: bool
) -> None:
    wanted = read_selection(words.split())
    assert wanted.takes(state, destination) is taken
    assert not wanted.reads_envelopes


@pytest.mark.parametrize(
    ("words", "recipients", "taken"),
    [
        ("from:Me@a.test", (0,), True),
        ("from:me@a.test", (0,), False),
        ("from:@A.TEST", (0,), True),
        ("from:*@a.test", (0,), True),
        ("from:<Me@a.test>", (0,), True),
        ("from:<>", (0,), False),
        ("from:@b.test", (0,), False),
        ("to:Bob@B.test", (0, 1), True),
        ("to:Bob@b.test", (1,), False),
        ("to:@c.test", (2,), True),
        ("to:Bob@b.test to:ann@b.test", (0, 1), True),
        ("to:Bob@b.test to:x@c.test", (0, 1), False),
        ("from:@a.test to:@c.test", (0, 1), False),
    ],
)
def test_addresses_are_those_of_the_envelope(
    words: str, recipients: tuple[int, ...], taken: bool
) -> None:
    wanted = read_selection(words.split())
    assert wanted.takes_of(ENVELOPE, recipients) is taken
    assert wanted.reads_envelopes


def test_the_null_reverse_path_is_no_address_of_any_domain() -> None:
    report = envelope("u@b.test", reverse_path="")
    assert read_selection(["from:<>"]).takes_of(report, (0,))
    assert not read_selection(["from:@a.test"]).takes_of(report, (0,))


def test_ids_are_kept_in_order_and_once() -> None:
    names = [message_name(9), message_name(7), message_name(9).upper()]
    assert read_selection(names).ids == (9, 7)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("nonsense", "'nonsense' is no message id and no predicate"),
        ("subject:hello", "known are domain:, from:, to:, state:"),
        ("domain:", "nothing behind the colon; write domain:example.com"),
        ("from:bob", "no address, and no @domain; write from:bob@example.com"),
        ("from:", "nothing behind the colon"),
        ("to:<>", "no address, and no @domain"),
        ("to:bob@", "no address, and no @domain"),
        ("state:frozen", "no such state; write state:held, state:waiting, state:relaying"),
        ("domain:a.test domain:b.test", "domain: is there twice"),
    ],
)
def test_a_mistake_says_what_would_be_right(words: str, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read_selection(words.split())
    assert problem in str(raised.value)
