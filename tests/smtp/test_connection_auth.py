"""AUTH of a session with a next hop, against a scripted one."""

import base64
import hmac

import pytest

from gwrelay.errors import SessionRefused
from gwrelay.smtp.sasl import Credentials
from support.peer import DROP, EXTENSIONS, STALL, Peer
from support.sessions import SHORT_S, greeted, lost

CHALLENGE = base64.b64encode(b"<1896.697170952@peer.example>").decode()


def cram_md5_answer(username: str, password: str) -> str:
    digest = hmac.new(password.encode(), base64.b64decode(CHALLENGE), "md5").hexdigest()
    return base64.b64encode(f"{username} {digest}".encode()).decode()


def with_auth(mechanisms: str) -> Peer:
    return Peer(extensions=(*EXTENSIONS, f"AUTH {mechanisms}"))


USER = Credentials("user", "secret")
PLAIN = base64.b64encode(b"\0user\0secret")


@pytest.mark.parametrize(
    ("offered", "used"),
    [
        ("PLAIN", "PLAIN"),
        ("LOGIN", "LOGIN"),
        ("LOGIN PLAIN", "PLAIN"),
        ("plain login", "PLAIN"),
        ("GSSAPI PLAIN SCRAM-SHA-256 LOGIN", "SCRAM-SHA-256"),
        ("SCRAM-SHA-256-PLUS SCRAM-SHA-1 LOGIN", "LOGIN"),
    ],
)
def test_the_strongest_mechanism_that_both_know_is_used(offered: str, used: str) -> None:
    with with_auth(offered) as peer:
        made = greeted(peer)
        assert made.login(USER).code == 235
        assert made.stage == "auth"
        assert not made.spoiled
        [auth] = [c.line for c in peer.commands if c.verb == "AUTH"]
        assert auth.split()[1].decode() == used


def test_plain_is_sent_along_with_the_command() -> None:
    with with_auth("PLAIN") as peer:
        greeted(peer).login(USER)
        assert [c.line for c in peer.commands[1:]] == [b"AUTH PLAIN " + PLAIN]


def test_an_initial_response_too_long_for_a_command_is_sent_apart() -> None:
    """RFC 4954 4"""
    long = Credentials("user", "x" * 500)
    with with_auth("PLAIN") as peer:
        assert greeted(peer).login(long).code == 235
        assert [c.line for c in peer.commands[1:]] == [b"AUTH PLAIN"]


def test_login_waits_for_the_prompts() -> None:
    with with_auth("LOGIN") as peer:
        greeted(peer).login(USER)
        assert [c.line for c in peer.commands[1:]] == [b"AUTH LOGIN"]


def test_auth_by_cram_md5_never_says_the_password() -> None:
    with with_auth("PLAIN CRAM-MD5") as peer:
        answer = cram_md5_answer("user", "secret")
        peer.once("AUTH", f"334 {CHALLENGE}").once(answer.upper(), "235 2.7.0 welcome")
        assert greeted(peer).login(USER).code == 235
        assert [c.line for c in peer.commands[1:]] == [b"AUTH CRAM-MD5", answer.encode()]


def test_a_wrong_password_is_refused_in_scram_too() -> None:
    with with_auth("SCRAM-SHA-256") as peer:
        assert greeted(peer).login(Credentials("user", "wrong")).code == 535


@pytest.mark.parametrize("refusal", ["535 5.7.8 no", "454 4.7.0 later", "534 5.7.9 too weak"])
def test_refused_credentials_are_a_reply(refusal: str) -> None:
    with with_auth("PLAIN LOGIN") as peer:
        peer.always("AUTH", refusal)
        assert str(greeted(peer).login(USER)) == refusal


@pytest.mark.parametrize("refusal", ["535 5.7.8 not by PLAIN", "504 5.5.4 what is PLAIN?"])
def test_after_a_refused_mechanism_the_next_is_tried(refusal: str) -> None:
    with with_auth("PLAIN LOGIN") as peer:
        peer.once("AUTH", refusal)
        assert greeted(peer).login(USER).code == 235
        assert peer.verbs().count("AUTH") == 2


@pytest.mark.parametrize("refusal", ["454 4.7.0 later", "421 4.3.2 closing"])
def test_after_a_not_now_no_other_mechanism_is_tried(refusal: str) -> None:
    with with_auth("PLAIN LOGIN") as peer:
        peer.once("AUTH", refusal)
        assert str(greeted(peer).login(USER)) == refusal
        assert peer.verbs().count("AUTH") == 1


def refused(peer: Peer, given: Credentials = USER) -> str:
    """Why we would not use a session with `peer`."""
    told = lost(lambda: greeted(peer).login(given))
    assert isinstance(told, SessionRefused)
    assert (told.stage, told.status) == ("auth", "4.7.0")
    return told.reason


@pytest.mark.parametrize("mechanisms", ["", "GSSAPI", "XOAUTH2 NTLM"])
def test_no_common_mechanism_refuses_before_anything_is_said(mechanisms: str) -> None:
    with with_auth(mechanisms) if mechanisms else Peer() as peer:
        assert "no AUTH mechanism is offered that we know" in refused(peer)
        assert "AUTH" not in peer.verbs()


@pytest.mark.parametrize("challenge", ["334 a", "334 abcde", "334 abc", "334-YWJj\n334 YWJj"])
def test_a_challenge_that_is_no_base64_is_cancelled(challenge: str) -> None:
    with with_auth("CRAM-MD5") as peer:
        peer.once("AUTH", challenge)
        assert "base64" in refused(peer)
        assert peer.verbs()[1:] == ["AUTH", "*"]


def test_a_challenge_where_none_belongs_is_cancelled_and_the_next_mechanism_tried() -> None:
    with with_auth("PLAIN LOGIN") as peer:
        peer.once("AUTH", "334 ")
        assert greeted(peer).login(USER).code == 235
        assert peer.verbs()[1:] == ["AUTH", "*", "AUTH"]


def test_endless_challenges_end() -> None:
    with with_auth("PLAIN LOGIN") as peer:
        for verb in ("AUTH", "*", "", "DXNLCG==", "C2VJCMV0"):
            peer.always(verb, "334 YQ==")
        refused(peer)
        assert len(peer.commands) < 20


def test_a_success_without_the_servers_proof_is_none() -> None:
    """RFC 5802 5: whoever cannot show that it knows the password does not get the mail."""
    with with_auth("SCRAM-SHA-256") as peer:
        peer.once("AUTH", "235 2.7.0 come in")
        assert "did not prove" in refused(peer)


def test_credentials_beyond_ascii_are_sent_as_utf_8() -> None:
    with with_auth("PLAIN") as peer:
        assert greeted(peer).login(Credentials("ützer", "geheimnißvoll")).code == 235
        [auth] = [c.line for c in peer.commands if c.verb == "AUTH"]
        assert base64.b64decode(auth.split()[2]) == "\0ützer\0geheimnißvoll".encode()


@pytest.mark.parametrize("answer", [DROP, STALL])
def test_a_connection_lost_in_auth_is_lost_at_auth(answer: object) -> None:
    with with_auth("PLAIN") as peer:
        peer.once("AUTH", answer)
        made = greeted(peer, auth=SHORT_S)
        assert lost(lambda: made.login(USER)).stage == "auth"
