"""A certificate authority made for one test run, and a server's certificate it has signed.

Made with the openssl command, since the standard library cannot; nothing secret is kept.
"""

import shutil
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
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca))


def make_authority(place: Path, server_name: str) -> Authority:
    """In the directory `place`; skips the test where openssl is missing."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command: apt-get install openssl")
    ca, ca_key = place / "ca.pem", place / "ca.key"
    made = Authority(ca, place / "mx.pem", place / "mx.key")
    elliptic = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    _openssl("req", "-x509", *elliptic, "-keyout", ca_key, "-out", ca, "-subj", "/CN=Test CA")
    request = place / "mx.csr"
    _openssl("req", *elliptic, "-keyout", made.key, "-out", request, "-subj", f"/CN={server_name}")
    extensions = place / "extensions"
    extensions.write_text(f"subjectAltName=DNS:{server_name}\n")
    _openssl(
        "x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial",
        "-out", made.certificate, "-extfile", extensions,
    )  # fmt: skip
    return made


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=30)
