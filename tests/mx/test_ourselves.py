"""Which addresses are our own."""

import pytest

from gwrelay.mx.ourselves import is_local, own_address_test


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1"])
def test_loopback_addresses_are_local(address) -> None:
    assert is_local(address)


@pytest.mark.parametrize("address", ["192.0.2.1", "203.0.113.9", "2001:db8::1", "8.8.8.8"])
def test_foreign_addresses_are_not_local(address) -> None:
    assert not is_local(address)


@pytest.mark.parametrize(
    ("listening", "address", "own"),
    [
        ([("192.0.2.1", 25)], "192.0.2.1", True),
        ([("192.0.2.1", 25)], "192.0.2.2", False),
        ([("192.0.2.1", 2525)], "192.0.2.1", False),
        ([("2001:DB8::1", 25)], "2001:db8::1", True),
        ([("192.0.2.1", 25)], "::ffff:192.0.2.1", True),
        ([("::ffff:192.0.2.1", 25)], "192.0.2.1", True),
        ([("", 25)], "::ffff:127.0.0.1", True),
        ([("0.0.0.0", 25)], "127.0.0.1", True),
        ([("::", 25)], "::1", True),
        ([("", 25)], "127.0.0.1", True),
        ([("0.0.0.0", 2525)], "127.0.0.1", False),
        ([("0.0.0.0", 25)], "192.0.2.1", False),
        ([], "127.0.0.1", False),
    ],
)
def test_an_address_ours_if_we_listen_there_on_the_port_of_exchanges(
    listening, address, own
) -> None:
    assert own_address_test(listening, 25)(address) == own
