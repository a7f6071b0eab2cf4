"""The demo's destinations: who listens, who does not yet, and that the mix meets them all."""

import gevent
import pytest
from gevent import socket

from gwrelay_bench.corpus import Specimen
from gwrelay_bench.destinations import CHARACTERS, REFUSED, TABLE, crowd, mix, open_exchanges
from gwrelay_bench.sink import Sink

UP = {"north.example", "south.example", "grey.example", "west.example"}


def reachable(domain: str, port: int) -> bool:
    """Whether any exchange of `domain` takes a connection."""
    exchanges = [text.split()[1].rstrip(".") for text in TABLE[domain].get("MX", [])] or [domain]
    for address in (address for name in exchanges for address in TABLE[name]["A"]):
        try:
            socket.create_connection((address, port), 5).close()
        except ConnectionRefusedError:
            continue
        return True
    return False


def test_all_but_the_late_one_are_reachable_until_it_opens() -> None:
    sink = Sink()
    exchanges = open_exchanges(sink)
    try:
        assert {domain for domain in CHARACTERS if reachable(domain, exchanges.port)} == UP
        exchanges.open_late()
        assert reachable("east.example", exchanges.port)
    finally:
        sink.close()
        gevent.sleep(0)


def test_two_sets_of_exchanges_find_two_ports() -> None:
    first, second = Sink(), Sink()
    try:
        assert open_exchanges(first).port != open_exchanges(second).port
    finally:
        first.close()
        second.close()


def test_the_mix_goes_to_every_destination_and_to_the_refused_recipient() -> None:
    submissions = list(mix([Specimen(str(n), b"") for n in range(20)]))
    recipients = {recipient for s in submissions for recipient in s.recipients}
    assert {recipient.rpartition("@")[2] for recipient in recipients} == set(CHARACTERS)
    assert REFUSED in recipients
    assert any(len({r.rpartition("@")[2] for r in s.recipients}) > 2 for s in submissions)
    assert any(s.reverse_path == "" for s in submissions)


@pytest.mark.parametrize("messages", [0, 1, 7])
def test_the_crowd_has_the_asked_size_and_tells_its_members_apart(messages: int) -> None:
    assert len({s.reverse_path for s in crowd(messages, 4096)}) == messages
    assert all(4096 <= len(s.content) < 4096 + 78 for s in crowd(messages, 4096))
