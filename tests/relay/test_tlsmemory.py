"""What is remembered of a host's TLS, and for how long."""

import ssl
from typing import cast

import pytest

from gwrelay.relay.tlsmemory import HOLD_S, Place, SessionKey, TlsMemory, TlsSessions
from gwrelay.relay.tlspolicy import ENCRYPT, MAY, VERIFY
from support.mail import UNREACHED
from support.table_resolver import SetClock

TTL_S = 1000.0
HOST = Place("", "192.0.2.1", 25)
OTHERS = [HOST._replace(source="192.0.2.9"), HOST._replace(address="::1"), HOST._replace(port=587)]


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def memory(clock: SetClock) -> TlsMemory:
    return TlsMemory(clock, TTL_S)


def test_a_failure_is_remembered_for_its_time(memory: TlsMemory, clock: SetClock) -> None:
    memory.note_failure(HOST, MAY, UNREACHED)
    for passed_s, held, broken in [(0, True, True), (HOLD_S, False, True), (TTL_S, False, False)]:
        clock.now += passed_s
        assert (memory.failure(HOST, MAY) is UNREACHED) is held
        assert memory.is_broken(HOST) is broken
        clock.now -= passed_s


def test_a_failure_is_of_one_level_and_one_place(memory: TlsMemory) -> None:
    memory.note_failure(HOST, MAY, UNREACHED)
    assert memory.failure(HOST, ENCRYPT) is None
    for other in OTHERS:
        assert memory.failure(other, MAY) is None
        assert not memory.is_broken(other)


@pytest.mark.parametrize("level", [ENCRYPT, VERIFY])
def test_a_failure_of_what_demands_more_does_not_mean_broken(memory: TlsMemory, level: str) -> None:
    """A wrong certificate is no reason to send other mail in the clear."""
    memory.note_failure(HOST, level, UNREACHED)
    assert memory.failure(HOST, level) is UNREACHED
    assert not memory.is_broken(HOST)


def test_a_handshake_that_went_well_ends_it(memory: TlsMemory) -> None:
    memory.note_failure(HOST, MAY, UNREACHED)
    memory.note_failure(HOST, VERIFY, UNREACHED)
    memory.note_success(HOST, MAY)
    assert not memory.is_broken(HOST)
    assert memory.failure(HOST, MAY) is None
    assert memory.failure(HOST, VERIFY) is UNREACHED


def test_what_is_over_is_forgotten(memory: TlsMemory, clock: SetClock) -> None:
    for n in range(10_000):
        clock.now += 10
        memory.note_failure(HOST._replace(port=n), MAY, UNREACHED)
    assert len(memory) < 3000


def key(n: int) -> SessionKey:
    return HOST._replace(port=n), "mx.example", False


def session() -> ssl.SSLSession:
    return cast(ssl.SSLSession, object())


def test_sessions_are_kept_up_to_a_number_the_oldest_going_first() -> None:
    sessions = TlsSessions(limit=2)
    kept = [session() for _ in range(3)]
    sessions.keep(key(1), kept[0])
    sessions.keep(key(2), kept[1])
    assert sessions.get(key(1)) is kept[0]
    sessions.keep(key(3), kept[2])
    assert [sessions.get(key(n)) for n in (1, 2, 3)] == [kept[0], None, kept[2]]
    assert len(sessions) == 2


def test_the_latest_session_replaces_the_one_before_and_can_be_dropped() -> None:
    sessions = TlsSessions()
    sessions.keep(key(1), session())
    latest = session()
    sessions.keep(key(1), latest)
    assert sessions.get(key(1)) is latest
    sessions.drop(key(1))
    sessions.drop(key(1))
    assert sessions.get(key(1)) is None
