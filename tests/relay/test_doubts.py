"""Which hosts may be asked about a recipient in doubt, and what an attempt leaves in doubt."""

from gwrelay.mx.candidates import Candidate
from gwrelay.queue.delivery import Doubt
from gwrelay.relay.doubts import Doubts
from support.mail import DEFERRED, DELIVERED, IN_DOUBT

A, B, C = (Candidate(f"mx{n}.test", "192.0.2.1", port) for n, port in enumerate((1, 2, 3)))
AT_A = Doubt(A.exchange, A.address, A.port, (0, 1))
AT_B = Doubt(B.exchange, B.address, B.port, (2,))


def find(address: str, port: int) -> Candidate | None:
    return {(c.address, c.port): c for c in (A, B, C)}.get((address, port))


def allowed(doubts: Doubts) -> list[tuple[int, ...]]:
    """Whom of four recipients A, B and C may be asked about."""
    return [tuple(n for n in range(4) if doubts.may_ask(host, n)) for host in (A, B, C)]


def test_without_doubt_every_host_may_be_asked_about_everybody() -> None:
    doubts = Doubts((), find)
    assert allowed(doubts) == [(0, 1, 2, 3)] * 3
    assert doubts.hosts == []
    assert doubts.left() == ()


def test_each_is_asked_about_at_its_own_host_first() -> None:
    doubts = Doubts((AT_A, AT_B), find)
    assert doubts.hosts == [A, B]
    assert allowed(doubts) == [(0, 1, 3), (2, 3), (3,)]


def test_a_host_tried_in_vain_frees_its_recipients_for_the_others() -> None:
    doubts = Doubts((AT_A, AT_B), find)
    doubts.tried(A)
    assert allowed(doubts) == [(0, 1, 3), (0, 1, 2, 3), (0, 1, 3)]


def test_a_host_that_is_gone_need_not_be_tried() -> None:
    doubts = Doubts((AT_A, AT_B), lambda address, port: None if port == B.port else A)
    assert doubts.hosts == [A]
    assert allowed(doubts)[2] == (2, 3)


def test_doubt_that_is_new_ends_the_attempt_for_its_recipients() -> None:
    doubts = Doubts((), find)
    doubts.note({3: IN_DOUBT}, A)
    doubts.tried(A)
    assert allowed(doubts) == [(0, 1, 2)] * 3
    assert doubts.left() == (Doubt(A.exchange, A.address, A.port, (3,)),)


def test_doubt_once_more_at_the_same_host_lets_the_next_be_asked() -> None:
    doubts = Doubts((AT_A,), find)
    doubts.note({0: IN_DOUBT}, A)
    doubts.note({1: DELIVERED}, A)
    doubts.tried(A)
    assert [0 in who for who in allowed(doubts)] == [False, True, True]
    doubts.note({0: IN_DOUBT}, B)
    doubts.tried(B)
    assert [0 in who for who in allowed(doubts)] == [False, False, False]
    assert doubts.left() == (Doubt(B.exchange, B.address, B.port, (0,)),)


def test_a_clear_word_ends_the_doubt() -> None:
    doubts = Doubts((AT_A,), find)
    for n in AT_A.recipients:
        doubts.note({n: DEFERRED}, A)
    assert doubts.left() == ()


def test_whoever_was_not_asked_about_is_in_doubt_as_before() -> None:
    doubts = Doubts((AT_A, AT_B), find)
    doubts.note({0: DELIVERED}, A)
    doubts.note({3: IN_DOUBT}, A)
    assert doubts.left() == (AT_A._replace(recipients=(1, 3)), AT_B)
