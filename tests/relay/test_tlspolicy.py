"""How much TLS mail demands: the whole table."""

import pytest

from gwrelay.relay.tlspolicy import (
    ENCRYPT,
    FALLBACK_AFTER_S,
    LEVELS,
    MAY,
    OFF,
    VERIFY,
    Demand,
    Kept,
    Known,
    TlsPolicy,
    Way,
    choose,
    suits,
)

CLEAR, OFFERED, NEEDED, PUT_OFF = Way
WELL, BROKEN = Known(), Known(is_broken=True)
JUST_FAILED, JUST_BROKE = Known(just_failed=True), Known(True, True)
YOUNG_S, OLD_S = FALLBACK_AFTER_S - 0.1, FALLBACK_AFTER_S


@pytest.mark.parametrize("waited_s", [0.0, YOUNG_S, OLD_S, 86_400.0])
@pytest.mark.parametrize("known", [WELL, BROKEN, JUST_FAILED, JUST_BROKE])
@pytest.mark.parametrize(
    ("level", "known_well", "just_failed"),
    [(OFF, CLEAR, CLEAR), (ENCRYPT, NEEDED, PUT_OFF), (VERIFY, NEEDED, PUT_OFF)],
)
def test_all_levels_but_may_never_change_their_mind(
    level: str, known_well: Way, just_failed: Way, known: Known, waited_s: float
) -> None:
    for authenticates in (False, True):
        way = choose(Demand(level), known, waited_s, implicit=False, authenticates=authenticates)
        assert way is (just_failed if known.just_failed else known_well)


@pytest.mark.parametrize(
    ("known", "waited_s", "fallback", "authenticates", "way"),
    [
        (WELL, 0.0, True, False, OFFERED),
        (WELL, OLD_S, True, False, OFFERED),
        (BROKEN, 0.0, True, False, OFFERED),
        (BROKEN, YOUNG_S, True, False, OFFERED),
        (BROKEN, OLD_S, True, False, CLEAR),
        (BROKEN, OLD_S, False, False, OFFERED),
        (BROKEN, OLD_S, True, True, OFFERED),
        (JUST_BROKE, 0.0, True, False, PUT_OFF),
        (JUST_BROKE, YOUNG_S, True, False, PUT_OFF),
        (JUST_BROKE, OLD_S, True, False, CLEAR),
        (JUST_BROKE, OLD_S, False, False, PUT_OFF),
        (JUST_BROKE, OLD_S, True, True, PUT_OFF),
        (JUST_FAILED, OLD_S, True, False, PUT_OFF),
    ],
)
def test_may_goes_in_the_clear_for_old_mail_to_a_broken_host_without_auth(
    known: Known, waited_s: float, fallback: bool, authenticates: bool, way: Way
) -> None:
    demand = Demand(MAY, fallback)
    chosen = choose(demand, known, waited_s, implicit=False, authenticates=authenticates)
    assert chosen is way


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("known", "way"), [(BROKEN, NEEDED), (JUST_BROKE, PUT_OFF)])
def test_a_port_of_nothing_but_tls_is_never_spoken_to_in_the_clear(
    level: str, known: Known, way: Way
) -> None:
    assert choose(Demand(level), known, OLD_S, implicit=True, authenticates=False) is way


IN_TLS, VERIFIED = Kept(OFFERED, True, False), Kept(NEEDED, True, True)
NOT_OFFERED, FELL_BACK = Kept(OFFERED, False, False), Kept(CLEAR, False, False)


@pytest.mark.parametrize(
    ("level", "kept", "suited"),
    [
        (OFF, NOT_OFFERED, True),
        (OFF, IN_TLS, True),
        (OFF, VERIFIED, True),
        (MAY, NOT_OFFERED, True),
        (MAY, FELL_BACK, False),
        (MAY, IN_TLS, True),
        (MAY, VERIFIED, True),
        (ENCRYPT, NOT_OFFERED, False),
        (ENCRYPT, FELL_BACK, False),
        (ENCRYPT, IN_TLS, True),
        (ENCRYPT, VERIFIED, True),
        (VERIFY, NOT_OFFERED, False),
        (VERIFY, FELL_BACK, False),
        (VERIFY, IN_TLS, False),
        (VERIFY, VERIFIED, True),
    ],
)
def test_a_kept_session_carries_what_asks_for_no_more_than_it_has(
    level: str, kept: Kept, suited: bool
) -> None:
    assert suits(Demand(level), kept, now_in_the_clear=False) is suited


@pytest.mark.parametrize(
    ("level", "suited"), [(OFF, True), (MAY, True), (ENCRYPT, False), (VERIFY, False)]
)
def test_a_session_in_the_clear_carries_more_mail_that_may_go_so(level: str, suited: bool) -> None:
    assert suits(Demand(level), FELL_BACK, now_in_the_clear=True) is suited


def test_a_destination_has_its_own_demand() -> None:
    policy = TlsPolicy(Demand(MAY), {"bank.example": Demand(VERIFY)})
    assert policy.demand("bank.example").level == VERIFY
    assert policy.demand("www.bank.example").level == MAY
    assert policy.verifies
    assert not TlsPolicy().verifies
    assert TlsPolicy(Demand(VERIFY)).verifies
