"""A certificate authority made for one test run, and servers' certificates it has signed, or not.

Made with the openssl command, since the standard library cannot; nothing secret is kept.
"""

import shutil
import socket
import ssl
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest


class Authority(NamedTuple):
    """A CA, and the certificate and key of the server it vouches for."""

    ca: Path
    certificate: Path
    key: Path

    def server(self) -> ssl.SSLContext:
        return server_context(self.certificate, self.key)

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca))

    def certify(self, server_name: str, *, days: int = 30) -> "Authority":
        """Another server's; `days` -1 is over already."""
        place = self.ca.parent
        stem = f"{server_name}-{days}"
        made = self._replace(certificate=place / f"{stem}.pem", key=place / f"{stem}.key")
        request, extensions = place / f"{stem}.csr", place / f"{stem}.ext"
        subject = ("-subj", f"/CN={server_name}")
        openssl("req", *_ELLIPTIC, "-keyout", made.key, "-out", request, *subject)
        kind = "IP" if server_name.replace(".", "").isdigit() else "DNS"
        extensions.write_text(f"subjectAltName={kind}:{server_name}\n")
        ca = ("-CA", self.ca, "-CAkey", place / "ca.key", "-CAcreateserial")
        openssl(
            *("x509", "-req", "-in", request, *ca, "-days", str(days)),
            *("-out", made.certificate, "-extfile", extensions),
        )
        return made


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def certificate_at(port: int) -> bytes:
    """What who speaks TLS at this port of loopback shows, in DER."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), 10) as sock,
        context.wrap_socket(sock) as wrapped,
    ):
        shown = wrapped.getpeercert(binary_form=True)
    assert shown is not None
    return shown


_ELLIPTIC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def make_authority(place: Path, server_name: str) -> Authority:
    """In the directory `place`; skips the test where openssl is missing."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command: apt-get install openssl")
    made = self_signed(place / "ca.pem", place / "ca.key", "Test CA")
    return made.certify(server_name)


def self_signed(certificate: Path, key: Path, name: str) -> Authority:
    """A certificate that only it vouches for."""
    openssl(
        *("req", "-x509", *_ELLIPTIC, "-keyout", key, "-out", certificate),
        *("-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name.replace(' ', '-')}"),
    )
    return Authority(certificate, certificate, key)


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=30)
