"""SASL mechanisms against the examples of their RFCs, and against servers gone wrong."""

import pytest
from scramp import ScramMechanism

from gwrelay.smtp import sasl
from gwrelay.smtp.sasl import CramMd5, Credentials, Login, Plain, SaslError, ScramSha256, choose

TIM = Credentials("tim", "tanstaaftanstaaf")
#: RFC 7677 3
PENCIL = Credentials("user", "pencil")
NONCE = "rOprNGfwEbeRWgbNEkqO"
SERVER_NONCE = NONCE + "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
SALT = "W22ZaJ0SNY7soEsUEjb6gQ=="
SERVER_FIRST = f"r={SERVER_NONCE},s={SALT},i=4096".encode()
SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def test_plain_as_in_rfc_4616() -> None:
    plain = Plain(TIM)
    assert plain.initial == b"\0tim\0tanstaaftanstaaf"
    assert plain.is_complete
    with pytest.raises(SaslError):
        plain.respond(b"")


def test_cram_md5_as_in_rfc_2195() -> None:
    cram = CramMd5(TIM)
    assert cram.initial is None
    challenge = b"<1896.697170952@postoffice.reston.mci.net>"
    assert cram.respond(challenge) == b"tim b913a602c7eda7a495b4e6e7334d3890"
    with pytest.raises(SaslError, match="second"):
        cram.respond(challenge)


@pytest.mark.parametrize(
    "prompts", [(b"Username:", b"Password:"), (b"", b""), (b"User Name\0", b"?")]
)
def test_login_answers_two_prompts_whatever_they_say(prompts: tuple[bytes, bytes]) -> None:
    login = Login(TIM)
    assert login.initial is None
    assert [login.respond(prompt) for prompt in prompts] == [b"tim", b"tanstaaftanstaaf"]
    with pytest.raises(SaslError, match="third"):
        login.respond(b"Token:")


def test_scram_sha_256_as_in_rfc_7677() -> None:
    scram = ScramSha256(PENCIL, NONCE)
    assert scram.initial == f"n,,n=user,r={NONCE}".encode()
    assert scram.respond(SERVER_FIRST) == (
        f"c=biws,r={SERVER_NONCE},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=".encode()
    )
    assert not scram.is_complete
    assert scram.respond(SERVER_FINAL) == b""
    assert scram.is_complete


def test_scram_makes_a_new_nonce_each_time() -> None:
    assert ScramSha256(PENCIL).initial != ScramSha256(PENCIL).initial


@pytest.mark.parametrize(
    ("challenge", "complaint"),
    [
        (b"", "malformed"),
        (b"\xff", "UTF-8"),
        (f"s={SALT},r={SERVER_NONCE},i=4096".encode(), "malformed"),
        (f"m=x,r={SERVER_NONCE},s={SALT},i=4096".encode(), "malformed"),
        (f"r={SERVER_NONCE},s={SALT},i=04096".encode(), "malformed"),
        (f"r={SERVER_NONCE},s={SALT},i=٤٠٩٦".encode(), "malformed"),
        (f"r={SERVER_NONCE},s={SALT}".encode(), "malformed"),
        (f"r={SERVER_NONCE},s=???,i=4096".encode(), "base64"),
        (f"r=other{SERVER_NONCE},s={SALT},i=4096".encode(), "nonce"),
        (f"r={NONCE},s={SALT},i=4096".encode(), "nonce"),
        (f"r={SERVER_NONCE},s={SALT},i=4095".encode(), "iterations"),
        (f"r={SERVER_NONCE},s={SALT},i=600001".encode(), "iterations"),
        (f"r={SERVER_NONCE},s={SALT},i=9999999999".encode(), "iterations"),
    ],
)
def test_scram_refuses_a_first_challenge_that_is_wrong(challenge: bytes, complaint: str) -> None:
    scram = ScramSha256(PENCIL, NONCE)
    with pytest.raises(SaslError, match=complaint):
        scram.respond(challenge)
    assert not scram.is_complete


@pytest.mark.parametrize(
    ("challenge", "complaint"),
    [
        (b"v=" + SERVER_FINAL[2:].replace(b"6", b"7"), "does not know the password"),
        (b"v=", "does not know the password"),
        (b"v=???", "base64"),
        (b"e=invalid-proof", "invalid-proof"),
        (b"e=\x1b[2J", r"\\x1b"),
    ],
)
def test_scram_refuses_a_server_that_does_not_prove_itself(
    challenge: bytes, complaint: str
) -> None:
    scram = ScramSha256(PENCIL, NONCE)
    scram.respond(SERVER_FIRST)
    with pytest.raises(SaslError, match=complaint):
        scram.respond(challenge)
    assert not scram.is_complete


def test_scram_ends_after_the_servers_proof() -> None:
    scram = ScramSha256(PENCIL, NONCE)
    scram.respond(SERVER_FIRST)
    scram.respond(SERVER_FINAL)
    with pytest.raises(SaslError, match="after the last"):
        scram.respond(SERVER_FINAL)


@pytest.mark.parametrize(
    ("username", "password"),
    [
        ("user", "pencil"),
        ("a=b,c", "with, a comma = here"),
        ("ützer", "geheimnißvoll"),
        ("I\u00adX", "\u00aa\u2168"),
        ("space\u00a0d", "x"),
    ],
)
def test_scram_is_understood_by_another_implementation(username: str, password: str) -> None:
    mechanism = ScramMechanism("SCRAM-SHA-256")
    users: list[str] = []

    def look_up(user: str) -> object:
        users.append(user)
        return mechanism.make_auth_info(password)

    server = mechanism.make_server(look_up)
    client = ScramSha256(Credentials(username, password))
    assert client.initial is not None
    server.set_client_first(client.initial.decode())
    server.set_client_final(client.respond(server.get_server_first().encode()).decode())
    client.respond(server.get_server_final().encode())
    assert client.is_complete
    assert users == [sasl.saslprep(username)]


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        ("user", "user"),
        ("USER", "USER"),
        ("I\u00adX", "IX"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),
        ("\u0627\u0628", "\u0627\u0628"),
    ],
)
def test_saslprep_as_in_rfc_4013(text: str, prepared: str) -> None:
    assert sasl.saslprep(text) == prepared


@pytest.mark.parametrize(
    "text", ["\x07", "a\u2028b", "\ufffd", "\ue000", "\u06271", "\u0627a\u0627"]
)
def test_saslprep_refuses_what_it_must(text: str) -> None:
    with pytest.raises(SaslError):
        sasl.saslprep(text)


@pytest.mark.parametrize(
    ("offered", "names"),
    [
        ([], []),
        (["GSSAPI", "XOAUTH2"], []),
        (["PLAIN", "LOGIN"], ["PLAIN", "LOGIN"]),
        (["login", "Plain"], ["PLAIN", "LOGIN"]),
        (
            ["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256"],
            ["SCRAM-SHA-256", "CRAM-MD5", "PLAIN", "LOGIN"],
        ),
        (["SCRAM-SHA-256-PLUS", "SCRAM-SHA-1"], []),
    ],
)
def test_mechanisms_come_strongest_first(offered: list[str], names: list[str]) -> None:
    assert [mechanism.name for mechanism in choose(offered)] == names


def test_the_password_is_in_no_representation() -> None:
    assert "pencil" not in repr(PENCIL)
