"""The certificate that clients are shown: what is refused at the start, and when it is renewed."""

import logging
import os

import pytest

from gwrelay.certificate import Certificate, Pair, read_certificate, share, share_again, shared
from gwrelay.cli import run
from gwrelay.errors import ConfigError
from gwrelay.given import load
from support.authority import make_authority, openssl, self_signed


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return make_authority(tmp_path_factory.mktemp("authority"), "gw.example")


@pytest.fixture
def files(authority, tmp_path):
    """Copies that a test may spoil: certificate and key."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.write_bytes(authority.certificate.read_bytes())
    key.touch(mode=0o600)
    key.write_bytes(authority.key.read_bytes())
    return certificate, key


def settings_for(files, **more):
    certificate, key = files
    flags = {"spool": ["s"], "tls-cert": [str(certificate)], "tls-key": [str(key)]}
    return load(flags | more, {}, None, "gw.example").settings


def problem_of(files):
    with pytest.raises(ConfigError) as caught:
        read_certificate(settings_for(files))
    return str(caught.value)


def test_a_pair_that_belongs_together_is_taken(files):
    assert read_certificate(settings_for(files)).context is not None


def test_without_the_flags_there_is_none():
    assert read_certificate(load({"spool": ["s"]}, {}, None, "gw.example").settings) is None


def test_one_file_may_hold_both(files):
    certificate, key = files
    key.write_bytes(certificate.read_bytes() + key.read_bytes())
    assert read_certificate(settings_for((key, key))) is not None


@pytest.mark.parametrize(("which", "flag"), [(0, "--tls-cert"), (1, "--tls-key")])
def test_a_file_that_is_not_there_is_named(files, which, flag):
    files[which].unlink()
    expected = f"{flag} {files[which]}: cannot be read: No such file or directory"
    assert problem_of(files) == expected


@pytest.mark.parametrize("which", [0, 1])
def test_a_directory_or_a_pipe_does_not_hold_up_the_start(files, which):
    files[which].unlink()
    files[which].mkdir()
    assert "cannot be read: Is a directory" in problem_of(files)
    files[which].rmdir()
    os.mkfifo(files[which], 0o600)
    assert "in it; name a file in PEM" in problem_of(files)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "there is no certificate in it; name a file in PEM"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be used: "),
    ],
)
def test_a_certificate_that_is_none_is_said_to_be(files, content, complaint):
    files[0].write_bytes(content)
    assert complaint in problem_of(files)


def test_a_key_that_is_none_is_said_to_be(files):
    files[1].write_bytes(files[0].read_bytes())
    assert problem_of(files) == (
        f"--tls-key {files[1]}: there is no private key in it; name a file in PEM"
    )


def test_a_key_of_another_certificate_is_refused(files, tmp_path):
    other = self_signed(tmp_path / "other.pem", tmp_path / "other.key", "other")
    files[1].write_bytes(other.key.read_bytes())
    assert problem_of(files) == (
        f"--tls-key {files[1]}: is not the key of the first certificate in {files[0]}"
    )


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_a_password(files):
    openssl("ec", "-in", files[1], "-aes128", "-passout", "pass:x", "-out", files[1])
    assert f"--tls-key {files[1]}: it is encrypted, and nobody could type" in problem_of(files)


ROOT, SOMEBODY = 0, 12345


@pytest.mark.parametrize(
    ("owner", "mode", "is_good"),
    [
        (ROOT, 0o600, True),
        (ROOT, 0o400, True),
        (ROOT, 0o640, True),
        (ROOT, 0o660, False),
        (ROOT, 0o644, False),
        (SOMEBODY, 0o600, True),
        (SOMEBODY, 0o640, False),
        (SOMEBODY, 0o604, False),
    ],
)
def test_a_key_that_others_may_read_is_refused(files, owner, mode, is_good):
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(files[1], owner, -1)
    files[1].chmod(mode)
    if is_good:
        assert read_certificate(settings_for(files)) is not None
    else:
        assert f"others may read it (mode {mode:04o})" in problem_of(files)


def test_check_config_reads_the_files(files, capsys):
    words = ["check-config", "--spool", "s", "--hostname", "gw.example"]
    words += ["--tls-cert", str(files[0]), "--tls-key", str(files[1])]
    assert run(words) == 0
    files[1].chmod(0o644)
    assert run(words) == 2
    assert f"gwrelay: error: --tls-key {files[1]}: others may read it" in capsys.readouterr().err


# -- renewed ---------------------------------------------------------------------------------


def renew(files, tmp_path, name="renewed.example"):
    made = self_signed(tmp_path / "new.pem", tmp_path / "new.key", name)
    for path, new in zip(files, (made.certificate, made.key), strict=True):
        path.touch(mode=0o600)
        path.write_bytes(new.read_bytes())


def test_new_files_take_the_place_of_the_old_ones(files, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    certificate = Certificate(settings_for(files))
    old = certificate.context
    certificate.reload()
    assert certificate.context is old
    assert caplog.text == ""
    renew(files, tmp_path)
    certificate.reload()
    assert certificate.context is not old
    assert "clients are shown the new certificate" in caplog.text


@pytest.mark.parametrize("which", [0, 1])
def test_what_cannot_be_used_does_not_take_the_place_of_what_can(files, which, caplog, tmp_path):
    certificate = Certificate(settings_for(files))
    old = certificate.context, certificate.pair
    renew(files, tmp_path)
    good = files[which].read_bytes()
    files[which].write_bytes(b"half a fi")
    certificate.reload()
    assert (certificate.context, certificate.pair) == old
    assert "clients are shown the certificate from before" in caplog.text
    files[which].write_bytes(good)
    certificate.reload()
    assert certificate.context is not old[0]


def test_workers_see_what_was_read_and_do_not_need_the_files(files, tmp_path):
    settings = settings_for(files)
    certificate = Certificate(settings)
    descriptor = share(certificate)
    for path in files:
        path.unlink()
    worker = shared(descriptor, settings)
    assert worker.pair == certificate.pair
    for name in ("a name that is longer than the one before.example", "x"):
        renew(files, tmp_path, name)
        certificate.reload()
        share_again(descriptor, certificate)
        worker.reload()
        assert worker.pair == certificate.pair == Pair(*(path.read_bytes() for path in files))
    os.close(descriptor)
