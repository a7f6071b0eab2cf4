"""A relayer and the TLS of its next hops: what is tried, remembered, and never done."""

from collections.abc import Iterator

import pytest

from gwrelay.relay.relayer import ESMTPManagedRelayerFactory, RelayerSettings
from gwrelay.relay.security import Access, Security
from gwrelay.relay.tlsmemory import HOLD_S
from gwrelay.relay.tlspolicy import ENCRYPT, FALLBACK_AFTER_S, MAY, OFF, VERIFY, Demand, TlsPolicy
from gwrelay.smtp.connection import TIMEOUTS_S
from gwrelay.smtp.sasl import Credentials
from support.authority import Authority, make_authority
from support.mail import envelope
from support.peer import DROP, POLITE, RESET, STALL, Command, Peer
from support.relaying import End, Rig, nobody_listens

EXTENSIONS = ("PIPELINING", "AUTH PLAIN LOGIN")
ME = Credentials("me", "secret")
TTL_S = 3 * 86_400.0


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"), "mx0.test")


@pytest.fixture
def peer(authority: Authority) -> Iterator[Peer]:
    """Offers STARTTLS, as mx0.test."""
    with Peer(tls=authority.server(), extensions=EXTENSIONS) as made:
        yield made


@pytest.fixture
def plain() -> Iterator[Peer]:
    """Knows no TLS."""
    with Peer(extensions=EXTENSIONS) as made:
        yield made


class TlsRig(Rig):
    """A Rig with TLS: `level` for all but the `destinations` that have their own."""

    def __init__(
        self,
        level: str,
        authority: Authority,
        *places: object,
        fallback: bool = True,
        destinations: dict[str, str] | None = None,
        access: dict[int, Access] | None = None,
        broken_ttl_s: float = TTL_S,
        auth_without_tls: bool = False,
        starttls_s: float = 5.0,
        idle_timeout_s: float = 0.0,
        max_sessions: int = 2,
        limit: int = 20,
    ) -> None:
        demands = {name: Demand(its) for name, its in (destinations or {}).items()}
        smarthosts = {
            (f"mx{n}.test", place.port): its  # type: ignore[attr-defined]
            for n, place in enumerate(places)
            if (its := (access or {}).get(n))
        }
        security = Security(
            TlsPolicy(Demand(level, fallback), demands),
            ca_file=str(authority.ca),
            broken_ttl_s=broken_ttl_s,
            smarthosts=smarthosts,
            auth_without_tls=auth_without_tls,
            clock=lambda: self.clock(),
        )
        settings = RelayerSettings(
            "gw.test",
            idle_timeout_s=idle_timeout_s,
            timeouts_s=dict(TIMEOUTS_S) | {"starttls": starttls_s},
            max_sessions=max_sessions,
        )
        factory = ESMTPManagedRelayerFactory(settings, security=security)
        super().__init__(*places, factory=factory, limit=limit)  # type: ignore[arg-type]

    def relay_one(self, *, waited_s: float = 0.0, to: str = "x@b.test") -> End:
        """Carry one message that was accepted `waited_s` ago."""
        mine = max(self.add(envelope(to)), key=lambda delivery: delivery.message_id)
        self.clock.now += waited_s
        [end] = self.run([mine])
        self.clock.now -= waited_s
        return end


def verbs(peer: Peer) -> list[str]:
    peer.wait_for(lambda p: p.open == 0)
    return peer.verbs()


# -- what each level does ------------------------------------------------------------------


@pytest.mark.parametrize("level", [MAY, ENCRYPT, VERIFY])
def test_tls_is_used_where_it_is_offered(level: str, peer: Peer, authority: Authority) -> None:
    end = TlsRig(level, authority, peer).relay_one()
    assert end.kinds == ["delivered"]
    assert peer.messages[0].tls
    assert verbs(peer)[:3] == ["EHLO", "STARTTLS", "EHLO"]
    assert end.told[0].tls.startswith("TLSv1.3 ")
    assert end.told[0].tls.endswith(" verified" if level == VERIFY else " unverified")


def test_off_says_no_starttls(peer: Peer, authority: Authority) -> None:
    end = TlsRig(OFF, authority, peer).relay_one()
    assert end.kinds == ["delivered"]
    assert end.told[0].tls == ""
    assert "STARTTLS" not in verbs(peer)


@pytest.mark.parametrize("level", [OFF, MAY])
def test_without_an_offer_mail_goes_in_the_clear(
    level: str, plain: Peer, authority: Authority
) -> None:
    assert TlsRig(level, authority, plain).relay_one().kinds == ["delivered"]
    assert not plain.messages[0].tls


@pytest.mark.parametrize("waited_s", [0.0, 86_400.0])
@pytest.mark.parametrize("level", [ENCRYPT, VERIFY])
def test_a_stripped_offer_defers_what_must_have_tls(
    level: str, waited_s: float, plain: Peer, authority: Authority
) -> None:
    """faults 18, CVE-2016-0772"""
    end = TlsRig(level, authority, plain).relay_one(waited_s=waited_s)
    assert end.kinds == ["deferred"]
    assert "4.7.4 STARTTLS is not offered" in end.replies[0]
    assert "MAIL" not in verbs(plain)


@pytest.mark.parametrize("level", [OFF, MAY, ENCRYPT, VERIFY])
def test_the_next_host_may_have_what_the_first_has_not(
    level: str, plain: Peer, authority: Authority
) -> None:
    with Peer(tls=authority.certify("mx1.test").server(), extensions=EXTENSIONS) as second:
        end = TlsRig(level, authority, plain, second).relay_one()
        assert end.kinds == ["delivered"]
        assert (second.messages != []) is (level in (ENCRYPT, VERIFY))


# -- when it fails -------------------------------------------------------------------------

FAILURES = [
    "454 4.7.0 TLS not available",
    "554 5.7.0 never",
    "501 5.5.4 what?",
    ("220 go", DROP),
    ("220 go", RESET),
    ("220 go", b"250-mx0.test\r\n250 AUTH PLAIN\r\n"),
    DROP,
]


@pytest.mark.parametrize("level", [MAY, ENCRYPT, VERIFY])
@pytest.mark.parametrize("failure", FAILURES)
def test_young_mail_waits_when_tls_fails(
    failure: object, level: str, peer: Peer, authority: Authority
) -> None:
    peer.always("STARTTLS", failure)
    rig = TlsRig(level, authority, peer)
    end = rig.relay_one(waited_s=FALLBACK_AFTER_S - 1)
    assert end.kinds == ["deferred"]
    assert end.told[0].stage == "starttls"
    assert "MAIL" not in verbs(peer)
    assert peer.connections == 1
    assert not rig.is_bad(peer)  # other mail may do well there


@pytest.mark.parametrize("failure", FAILURES)
def test_old_mail_goes_in_the_clear_when_tls_fails_and_only_may_is_asked(
    failure: object, peer: Peer, authority: Authority
) -> None:
    peer.always("STARTTLS", failure)
    end = TlsRig(MAY, authority, peer).relay_one(waited_s=FALLBACK_AFTER_S)
    assert end.kinds == ["delivered"]
    assert end.told[0].tls == ""
    assert not peer.messages[0].tls
    assert verbs(peer).count("STARTTLS") == 1
    assert peer.connections == 2


@pytest.mark.parametrize("stage", ["STARTTLS", "EHLO"])
def test_a_handshake_that_stalls_is_one_that_fails(
    stage: str, peer: Peer, authority: Authority
) -> None:
    """Some stall in the handshake, some right behind it (faults 20)."""
    if stage == "STARTTLS":
        peer.always("STARTTLS", ("220 go", STALL))
    else:
        peer.once("EHLO", POLITE, DROP)
    end = TlsRig(MAY, authority, peer, starttls_s=0.2).relay_one(waited_s=FALLBACK_AFTER_S)
    assert end.kinds == ["delivered"]
    assert not peer.messages[0].tls


@pytest.mark.parametrize("level", [ENCRYPT, VERIFY])
@pytest.mark.parametrize("failure", FAILURES)
def test_what_must_have_tls_never_goes_without_however_old(
    failure: object, level: str, peer: Peer, authority: Authority
) -> None:
    peer.always("STARTTLS", failure)
    rig = TlsRig(level, authority, peer)
    for waited_s in (FALLBACK_AFTER_S, 900.0):
        rig.relay_one(waited_s=waited_s)
    assert "MAIL" not in verbs(peer)


def test_without_fallback_may_never_goes_in_the_clear_where_tls_is_offered(
    peer: Peer, authority: Authority
) -> None:
    peer.always("STARTTLS", "454 4.7.0 not now")
    rig = TlsRig(MAY, authority, peer, fallback=False)
    assert rig.relay_one(waited_s=FALLBACK_AFTER_S).kinds == ["deferred"]
    assert "MAIL" not in verbs(peer)


def test_a_421_in_place_of_tls_is_a_host_that_closes(peer: Peer, authority: Authority) -> None:
    peer.always("STARTTLS", "421 4.3.2 going down")
    rig = TlsRig(MAY, authority, peer)
    assert rig.relay_one(waited_s=FALLBACK_AFTER_S).kinds == ["deferred"]
    assert rig.is_bad(peer)
    assert "MAIL" not in verbs(peer)


def test_a_certificate_of_another_name_defers_what_is_to_be_verified(
    peer: Peer, authority: Authority
) -> None:
    """faults 19"""
    other = ("127.0.0.1", nobody_listens()[1])
    rig = TlsRig(VERIFY, authority, _Place(*other), peer)  # the peer is mx1.test here
    end = rig.relay_one()
    assert end.kinds == ["deferred"]
    assert "mx1.test" in end.replies[0]
    assert "4.7.5" in end.replies[0]
    assert not rig.is_bad(peer)


class _Place(tuple[str, int]):
    """An address that nobody listens on, where a Peer is expected."""

    __slots__ = ()

    def __new__(cls, address: str, port: int) -> "_Place":
        return super().__new__(cls, (address, port))

    @property
    def port(self) -> int:
        return self[1]


# -- what is remembered --------------------------------------------------------------------


def test_a_host_known_as_broken_gets_old_mail_without_a_handshake(
    peer: Peer, authority: Authority
) -> None:
    peer.always("STARTTLS", ("220 go", DROP))
    rig = TlsRig(MAY, authority, peer)
    rig.relay_one()
    peer.always("STARTTLS", POLITE)
    assert rig.relay_one(waited_s=FALLBACK_AFTER_S).kinds == ["delivered"]
    assert not peer.messages[0].tls
    assert verbs(peer).count("STARTTLS") == 1


def test_a_host_known_as_broken_gets_young_mail_by_a_handshake_that_may_end_it(
    peer: Peer, authority: Authority
) -> None:
    peer.once("STARTTLS", ("220 go", DROP))
    rig = TlsRig(MAY, authority, peer)
    rig.relay_one()
    rig.clock.now += HOLD_S
    assert rig.relay_one().kinds == ["delivered"]
    assert rig.relay_one(waited_s=FALLBACK_AFTER_S).kinds == ["delivered"]
    assert [message.tls for message in peer.messages] == [True, True]


def test_broken_tls_is_tried_again_after_its_time(peer: Peer, authority: Authority) -> None:
    peer.once("STARTTLS", ("220 go", DROP))
    rig = TlsRig(MAY, authority, peer)
    rig.relay_one()
    rig.clock.now += TTL_S
    assert rig.relay_one(waited_s=FALLBACK_AFTER_S).kinds == ["delivered"]
    assert peer.messages[0].tls


def test_old_mail_falls_back_even_when_nothing_is_remembered(
    peer: Peer, authority: Authority
) -> None:
    peer.always("STARTTLS", ("220 go", DROP))
    rig = TlsRig(MAY, authority, peer, broken_ttl_s=0.0)
    for _ in range(2):
        assert rig.relay_one(waited_s=FALLBACK_AFTER_S).kinds == ["delivered"]
        rig.clock.now += HOLD_S
    assert verbs(peer).count("STARTTLS") == 2


@pytest.mark.parametrize("level", [MAY, ENCRYPT])
def test_a_failure_is_not_repeated_for_each_message(
    level: str, peer: Peer, authority: Authority
) -> None:
    peer.always("STARTTLS", ("220 go", DROP))
    rig = TlsRig(level, authority, peer)
    replies = [rig.relay_one().replies for _ in range(3)]
    assert replies[0] == replies[1] == replies[2]
    assert peer.connections == 1
    rig.clock.now += HOLD_S
    rig.relay_one()
    assert peer.connections == 2


def test_a_failure_at_one_level_leaves_mail_of_another_alone(
    peer: Peer, authority: Authority
) -> None:
    with Peer(tls=authority.certify("other.test").server(), extensions=EXTENSIONS) as wrong:
        rig = TlsRig(MAY, authority, wrong, destinations={"strict.test": VERIFY})
        assert rig.relay_one(to="x@strict.test").kinds == ["deferred"]
        assert rig.relay_one(to="x@b.test", waited_s=FALLBACK_AFTER_S).kinds == ["delivered"]
        assert rig.relay_one(to="x@b.test").kinds == ["delivered"]
        assert [message.tls for message in wrong.messages] == [True, True]


@pytest.mark.parametrize("level", [MAY, VERIFY])
def test_the_next_session_with_a_host_is_resumed(
    level: str, peer: Peer, authority: Authority
) -> None:
    assert peer.tls is not None
    rig = TlsRig(level, authority, peer)
    for _ in range(3):
        assert rig.relay_one().kinds == ["delivered"]
    assert peer.tls.session_stats()["hits"] == 2


def test_a_session_whose_resumption_failed_is_not_offered_again(
    peer: Peer, authority: Authority
) -> None:
    assert peer.tls is not None
    rig = TlsRig(MAY, authority, peer)
    rig.relay_one()
    peer.once("STARTTLS", ("220 go", DROP))
    assert rig.relay_one().kinds == ["deferred"]
    rig.clock.now += HOLD_S
    assert rig.relay_one().kinds == ["delivered"]
    assert peer.tls.session_stats()["hits"] == 0


def test_a_session_that_was_not_verified_is_not_resumed_for_one_that_must_be(
    authority: Authority,
) -> None:
    wrong = authority.certify("other.test").server()
    with Peer(tls=wrong, extensions=EXTENSIONS) as peer:
        rig = TlsRig(MAY, authority, peer, destinations={"strict.test": VERIFY})
        assert rig.relay_one().kinds == ["delivered"]
        assert rig.relay_one(to="x@strict.test").kinds == ["deferred"]
        assert wrong.session_stats()["hits"] == 0


# -- one session, mail of several demands --------------------------------------------------


def sessions_of(rig: TlsRig, peer: Peer, *mail: str) -> list[tuple[int, bool]]:
    """Relay to these, one after the other; session and TLS of each message that arrived."""
    rig.run(rig.add(*(envelope(address) for address in mail)))
    return [(message.session, message.tls) for message in peer.messages]


def test_a_kept_session_carries_what_asks_for_less(peer: Peer, authority: Authority) -> None:
    rig = TlsRig(MAY, authority, peer, destinations={"strict.test": VERIFY, "c.test": ENCRYPT})
    found = sessions_of(rig, peer, "x@strict.test", "x@b.test", "x@c.test", "y@strict.test")
    assert found == [(1, True)] * 4


def test_a_kept_session_is_left_for_mail_that_asks_for_more(
    peer: Peer, authority: Authority
) -> None:
    rig = TlsRig(OFF, authority, peer, destinations={"strict.test": VERIFY, "c.test": ENCRYPT})
    found = sessions_of(rig, peer, "x@b.test", "x@c.test", "y@c.test", "x@strict.test")
    assert found == [(1, False), (2, True), (2, True), (3, True)]


def test_no_envelope_goes_ahead_over_a_session_that_does_not_suit_it(
    peer: Peer, authority: Authority
) -> None:
    rig = TlsRig(OFF, authority, peer, destinations={"strict.test": VERIFY}, limit=1)
    mail = ("1@b.test", "2@b.test", "3@b.test", "x@strict.test")
    assert sessions_of(rig, peer, *mail) == [(1, False)] * 3 + [(2, True)]
    assert b"3@b.test" in peer.messages[1].behind, "nothing went ahead at all"
    in_the_clear = [command.line for command in peer.commands if command.session == 1]
    assert not any(b"strict.test" in line for line in in_the_clear)


def test_a_session_that_fell_back_is_not_kept_for_young_mail(
    peer: Peer, authority: Authority
) -> None:
    peer.once("STARTTLS", "454 4.7.0 not now")
    rig = TlsRig(MAY, authority, peer)
    old = rig.add(envelope("old@b.test"))
    rig.clock.now += FALLBACK_AFTER_S
    older = rig.run(old + rig.add(envelope("young@b.test")))
    assert [end.kinds for end in older] == [["delivered"], ["deferred"]]
    assert peer.arrived() == {"old@b.test": 1}


# -- smart hosts ---------------------------------------------------------------------------

AUTHENTICATED = {0: Access(credentials=ME)}


def test_credentials_are_for_their_host_alone(peer: Peer, authority: Authority) -> None:
    with Peer(tls=authority.certify("mx1.test").server(), extensions=EXTENSIONS) as second:
        rig = TlsRig(MAY, authority, peer, second, access=AUTHENTICATED)
        assert rig.relay_one().kinds == ["delivered"]
        assert peer.messages[0].user
        assert verbs(peer)[:4] == ["EHLO", "STARTTLS", "EHLO", "AUTH"]
        peer.stop()
        rig.relay_one()
        assert second.messages[0].user == ""


def test_a_session_begun_as_one_user_carries_no_mail_of_another(authority: Authority) -> None:
    with Peer(extensions=EXTENSIONS) as peer:
        others = Access(credentials=Credentials("other", "secret"))
        rig = TlsRig(
            OFF,
            authority,
            *(peer, peer),
            access={**AUTHENTICATED, 1: others},
            auth_without_tls=True,
        )
        mine, theirs = rig.hosts.exchanges
        rig.hosts.exchanges = (mine,)

        def change(_command: Command) -> object:
            rig.hosts.exchanges = (theirs,)
            return POLITE

        peer.once(".", POLITE, change)
        rig.relay(*(envelope(f"u{n}@b.test") for n in range(3)))
        assert [message.session for message in peer.messages] == [1, 1, 2]
        assert peer.messages[1].user != peer.messages[2].user


@pytest.mark.parametrize("refusal", ["535 5.7.8 wrong", "454 4.7.0 later", "530 5.7.0 what?"])
def test_auth_refused_defers_and_leaves_the_host_alone(
    refusal: str, peer: Peer, authority: Authority
) -> None:
    peer.always("AUTH", refusal)
    rig = TlsRig(MAY, authority, peer, access=AUTHENTICATED)
    end = rig.relay_one()
    assert end.kinds == ["deferred"]
    assert end.told[0].stage == "auth"
    assert refusal in end.replies[0]
    assert rig.is_bad(peer)
    assert "MAIL" not in verbs(peer)


def test_a_session_without_its_auth_is_not_used(peer: Peer, authority: Authority) -> None:
    peer.extensions = ("PIPELINING", "STARTTLS")
    end = TlsRig(MAY, authority, peer, access=AUTHENTICATED).relay_one()
    assert end.kinds == ["deferred"]
    assert "no AUTH mechanism" in end.replies[0]
    assert "MAIL" not in verbs(peer)


@pytest.mark.parametrize("level", [OFF, MAY])
def test_a_password_is_not_sent_in_the_clear(level: str, plain: Peer, authority: Authority) -> None:
    end = TlsRig(level, authority, plain, access=AUTHENTICATED).relay_one()
    assert end.kinds == ["deferred"]
    assert "4.7.11 AUTH needs TLS" in end.replies[0]
    assert verbs(plain) == ["EHLO", "QUIT"]


def test_a_password_is_sent_in_the_clear_when_that_is_allowed(
    plain: Peer, authority: Authority
) -> None:
    rig = TlsRig(MAY, authority, plain, access=AUTHENTICATED, auth_without_tls=True)
    assert rig.relay_one().kinds == ["delivered"]
    assert plain.messages[0].user


@pytest.mark.parametrize("auth_without_tls", [False, True])
def test_no_fallback_where_a_password_is_sent(
    peer: Peer, authority: Authority, auth_without_tls: bool
) -> None:
    """Whoever can break a handshake would only have to wait for it."""
    peer.always("STARTTLS", ("220 go", DROP))
    rig = TlsRig(MAY, authority, peer, access=AUTHENTICATED, auth_without_tls=auth_without_tls)
    assert rig.relay_one(waited_s=FALLBACK_AFTER_S).kinds == ["deferred"]
    assert {"AUTH", "MAIL"}.isdisjoint(verbs(peer))


@pytest.mark.parametrize("level", [OFF, MAY, ENCRYPT, VERIFY])
def test_implicit_tls_is_spoken_from_the_first_byte(level: str, authority: Authority) -> None:
    with Peer(tls=authority.server(), implicit_tls=True, extensions=EXTENSIONS) as peer:
        rig = TlsRig(level, authority, peer, access={0: Access(True, ME)})
        end = rig.relay_one()
        assert end.kinds == ["delivered"]
        assert peer.messages[0].tls
        assert peer.messages[0].user
        assert verbs(peer)[:2] == ["EHLO", "AUTH"]


def test_implicit_tls_is_verified_when_that_is_asked(authority: Authority) -> None:
    other = authority.certify("other.test").server()
    with Peer(tls=other, implicit_tls=True, extensions=EXTENSIONS) as peer:
        end = TlsRig(VERIFY, authority, peer, access={0: Access(True)}).relay_one()
        assert end.kinds == ["deferred"]
        assert "mx0.test" in end.replies[0]


def test_a_port_of_implicit_tls_gets_nothing_in_the_clear_however_old(
    plain: Peer, authority: Authority
) -> None:
    rig = TlsRig(MAY, authority, plain, access={0: Access(True)})
    end = rig.relay_one(waited_s=FALLBACK_AFTER_S)
    assert end.kinds == ["deferred"]
    assert verbs(plain) == []
