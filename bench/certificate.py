"""A certificate of a bench's own server, which nobody trusts."""

import subprocess
from pathlib import Path


def make_certificate(directory: Path) -> str:
    """A file in `directory` with certificate and key, of sink.example."""
    path = str(directory / "sink.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=sink.example", "-keyout", path, "-out", path]
    subprocess.run([*command, "-addext", "subjectAltName=DNS:sink.example"], check=True,
                   capture_output=True)  # fmt: skip
    return path
