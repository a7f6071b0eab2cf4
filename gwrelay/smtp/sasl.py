"""SASL mechanisms of a client: challenges in, responses out.  No I/O.

    PLAIN (RFC 4616)  LOGIN (its draft, which servers still want)  CRAM-MD5 (RFC 2195)
    SCRAM-SHA-256 (RFC 5802, 7677)

How they travel in SMTP (RFC 4954) is Connection.login()'s.
"""

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import stringprep
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from gwrelay.errors import GatewayError

#: What a server may ask for in SCRAM.  Fewer are too weak (RFC 7677 4); more would hold up all
#: other sessions: 600,000 take about a third of a second.
ITERATIONS = range(4096, 600_001)


class SaslError(GatewayError):
    """This exchange cannot go on: the other end does not keep to it, or did not prove itself."""


@dataclass(frozen=True)
class Credentials:
    """For AUTH with a smart host."""

    username: str
    password: str = field(repr=False)


class Mechanism(ABC):
    """One exchange, used once."""

    name = ""
    #: What can be sent before any challenge; None: the server begins.
    initial: bytes | None = None
    #: Whether the server's success may be believed now.
    is_complete = True

    @abstractmethod
    def __init__(self, given: Credentials) -> None:
        """SaslError for credentials that this mechanism cannot send."""

    @abstractmethod
    def respond(self, challenge: bytes) -> bytes:
        """Raises SaslError."""


class Plain(Mechanism):
    name = "PLAIN"

    def __init__(self, given: Credentials) -> None:
        self.initial = f"\0{given.username}\0{given.password}".encode()

    def respond(self, challenge: bytes) -> bytes:
        raise SaslError("a challenge where there is none")


class Login(Mechanism):
    """The prompts' words differ from server to server; only their order counts."""

    name = "LOGIN"

    def __init__(self, given: Credentials) -> None:
        self._answers = [given.password.encode(), given.username.encode()]

    def respond(self, challenge: bytes) -> bytes:
        if not self._answers:
            raise SaslError("a third prompt")
        return self._answers.pop()


class CramMd5(Mechanism):
    name = "CRAM-MD5"

    def __init__(self, given: Credentials) -> None:
        self._given = given
        self._answered = False

    def respond(self, challenge: bytes) -> bytes:
        if self._answered:
            raise SaslError("a second challenge")
        self._answered = True
        digest = hmac.new(self._given.password.encode(), challenge, "md5").hexdigest()
        return f"{self._given.username} {digest}".encode()


class ScramSha256(Mechanism):
    """Without channel binding.  Both ends prove that they know the password."""

    name = "SCRAM-SHA-256"
    is_complete = False

    def __init__(self, given: Credentials, nonce: str = "") -> None:
        """`nonce` is for tests; it must be printable ASCII without commas."""
        self._password = saslprep(given.password).encode()
        self._nonce = nonce or secrets.token_urlsafe(24)
        username = saslprep(given.username).replace("=", "=3D").replace(",", "=2C")
        self._first = f"n={username},r={self._nonce}"
        self.initial = f"n,,{self._first}".encode()
        self._signature = b""

    def respond(self, challenge: bytes) -> bytes:
        if self.is_complete:
            raise SaslError("a challenge after the last one")
        try:
            said = challenge.decode()
        except UnicodeDecodeError:
            raise SaslError("a challenge that is no UTF-8") from None
        return self._finish(said) if self._signature else self._prove(said)

    def _prove(self, said: str) -> bytes:
        found = re.fullmatch(r"r=([!-+\--~]+),s=([^,]+),i=([1-9][0-9]{0,9})(?:,.*)?", said)
        if found is None:
            raise SaslError("the first challenge is malformed")
        nonce, salt, count = found[1], from_base64(found[2]), int(found[3])
        if not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise SaslError("the server's nonce does not continue ours")
        if count not in ITERATIONS:
            raise SaslError(
                f"{count} iterations are not between {ITERATIONS[0]} and {ITERATIONS[-1]}"
            )
        salted = _salted(self._password, salt, count)
        final = f"c=biws,r={nonce}"
        signed = f"{self._first},{said},{final}".encode()
        key = _hmac(salted, b"Client Key")
        mask = _hmac(hashlib.sha256(key).digest(), signed)
        proof = bytes(one ^ other for one, other in zip(key, mask, strict=True))
        self._signature = _hmac(_hmac(salted, b"Server Key"), signed)
        return f"{final},p={base64.b64encode(proof).decode()}".encode()

    def _finish(self, said: str) -> bytes:
        if said.startswith("e="):
            raise SaslError(f"the server says {said[2:80]!r}")
        verifier = from_base64(said.partition(",")[0].removeprefix("v="))
        if not hmac.compare_digest(verifier, self._signature):
            raise SaslError("the server does not know the password")
        self.is_complete = True
        return b""


#: The strongest first.
MECHANISMS: tuple[type[Mechanism], ...] = (ScramSha256, CramMd5, Plain, Login)


def choose(offered: Iterable[str]) -> list[type[Mechanism]]:
    """Those that both ends know, in the order to try them."""
    names = {name.upper() for name in offered}
    return [mechanism for mechanism in MECHANISMS if mechanism.name in names]


def from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise SaslError("a challenge that is no base64") from None


def saslprep(text: str) -> str:
    """`text` as both ends must see it, if it is to be the same (RFC 4013)."""
    if text.isascii() and text.isprintable():
        return text
    mapped = "".join(
        " " if stringprep.in_table_c12(c) else c for c in text if not stringprep.in_table_b1(c)
    )
    prepared = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    if any(forbids(c) for c in prepared for forbids in _PROHIBITED):
        raise SaslError("the credentials have a character that no password may have")
    if any(map(stringprep.in_table_d1, prepared)) and (
        any(map(stringprep.in_table_d2, prepared))
        or not stringprep.in_table_d1(prepared[0])
        or not stringprep.in_table_d1(prepared[-1])
    ):
        raise SaslError("the credentials mix directions of writing (RFC 3454 6)")
    return prepared


_PROHIBITED: tuple[Callable[[str], bool], ...] = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
    stringprep.in_table_a1,
)


@lru_cache(maxsize=16)
def _salted(password: bytes, salt: bytes, iterations: int) -> bytes:
    """Remembered (RFC 5802 5.1 says so): the next session of this user is cheap."""
    return hashlib.pbkdf2_hmac("sha256", password, salt, iterations)


def _hmac(key: bytes, octets: bytes) -> bytes:
    return hmac.digest(key, octets, "sha256")
