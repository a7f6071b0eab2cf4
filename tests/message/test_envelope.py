"""The envelope's words, and the names of messages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwrelay.message.envelope import Envelope, Recipient, message_name


@pytest.mark.parametrize(
    ("address", "domain"),
    [
        ("a@b.example", "b.example"),
        ("a@B.Example", "b.example"),
        ("a@b.example.", "b.example"),
        ('"a@evil.example"@b.example', "b.example"),
        ("a%evil.example@b.example", "b.example"),
        ("evil.example!a@b.example", "b.example"),
        ("a@[192.0.2.1]", "[192.0.2.1]"),
    ],
)
def test_the_destination_is_what_follows_the_last_at_sign(address: str, domain: str) -> None:
    assert Recipient(address).domain == domain


def test_the_address_stays_as_the_client_wrote_it() -> None:
    assert Recipient('"A B"@C.Example.').address == '"A B"@C.Example.'


def test_an_envelope_asks_for_nothing_special_unless_told() -> None:
    envelope = Envelope("a@b.example", (Recipient("c@d.example"),))
    assert (envelope.body, envelope.smtputf8, envelope.ret, envelope.envid) == (
        "7BIT",
        False,
        "",
        "",
    )
    assert (envelope.recipients[0].notify, envelope.recipients[0].orcpt) == ("", "")


def test_a_name_is_thirteen_letters_and_digits_that_nobody_misreads() -> None:
    assert message_name(0) == "0" * 13
    assert message_name(31) == "0" * 12 + "z"
    assert message_name(32) == "0" * 11 + "10"
    everything = {c for n in range(32) for c in message_name(n)}
    assert everything == set("0123456789abcdefghjkmnpqrstvwxyz")


@given(st.tuples(*[st.integers(0, 2**64 - 1)] * 2))
def test_names_sort_as_ids_do_and_none_is_shared(ids: tuple[int, int]) -> None:
    first, second = ids
    assert (message_name(first) < message_name(second)) == (first < second)
    assert (message_name(first) == message_name(second)) == (first == second)
    assert len(message_name(first)) == 13
