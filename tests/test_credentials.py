"""The file of passwords, and what else of TLS and AUTH is read when the gateway starts."""

import pytest

from gwrelay.cli import run
from gwrelay.credentials import read_credentials
from gwrelay.errors import ConfigError
from gwrelay.given import load
from gwrelay.notation import SmartHost
from gwrelay.outbound import build_security, warn_of_passwords
from gwrelay.smtp.sasl import Credentials

ONE, TWO = SmartHost("smtp.example", 587), SmartHost("192.0.2.1", 465, True)
ONE_TOO = SmartHost("smtp.example", 2525)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "auth"
    path.touch(mode=0o600)
    return path


def read(file, text, *smarthosts):
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_credentials(str(file), smarthosts or (ONE, TWO))


def problem_of(file, text, *smarthosts):
    with pytest.raises(ConfigError) as caught:
        read(file, text, *smarthosts)
    return str(caught.value).removeprefix(f"--smarthost-auth {file}: ")


@pytest.mark.parametrize(
    ("line", "password"),
    [
        ("smtp.example:587 me secret", "secret"),
        ("smtp.example me secret", "secret"),
        ("SMTP.Example. me secret", "secret"),
        ("\t smtp.example \t me  two words # and a mark  ", "two words # and a mark"),
        ("smtp.example me secret\r", "secret"),
        ("# comment\n\nsmtp.example me gehe\u00efm", "gehe\u00efm"),
    ],
)
def test_a_line_is_host_username_and_the_rest_is_the_password(file, line, password):
    assert read(file, line + "\n") == {ONE: Credentials("me", password)}


def test_each_smart_host_has_its_own_and_a_line_with_a_port_beats_one_without(file):
    text = "smtp.example any a\nsmtp.example:2525 one b\n192.0.2.1 two c\n"
    assert read(file, text, ONE, ONE_TOO, TWO) == {
        ONE: Credentials("any", "a"),
        ONE_TOO: Credentials("one", "b"),
        TWO: Credentials("two", "c"),
    }


def test_a_smart_host_without_a_line_has_none(file):
    assert read(file, "") == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("smtp.example", "line 1: has no username and no password; write lines of HOST"),
        ("\n\nsmtp.example me\n", "line 3: has no password; write lines of HOST[:PORT] USERN"),
        ("smtp..example me x", "line 1: 'smtp..example' names no host; write lines of"),
        ("smtp.example:99999 me x", "line 1: 'smtp.example:99999' has a port outside"),
        ("smtp.example me s\0x", "line 1: has control characters; write lines of HOST"),
        (b"smtp.example me \xff", "line 1: is not UTF-8; write lines of HOST"),
        (
            "smtp.exmaple me x",
            "line 1: 'smtp.exmaple' is no smart host of ours; did you mean smtp.e",
        ),
        ("smtp.example:25 me x", "line 1: 'smtp.example' is no smart host of ours; did you mean"),
        ("else.test me x", "line 1: 'else.test' is no smart host of ours; name it with --smarth"),
        ("smtp.example a b\nsmtp.example c d", "line 2: line 1 is for the same host; keep one"),
    ],
)
def test_a_mistake_is_one_line_with_its_number_and_without_a_password(file, text, problem):
    assert problem_of(file, text).startswith(problem)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o601])
def test_a_file_that_others_can_get_at_is_refused(file, mode):
    file.chmod(mode)
    said = problem_of(file, "smtp.example me secret\n")
    assert f"(mode {mode:04o})" in said
    assert "chmod 600" in said
    assert "secret" not in said


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_credentials(str(tmp_path / "none"), (ONE,))


# -- what the service and check-config make of it --------------------------------------------


def settings_of(**flags):
    given = {name.replace("_", "-"): [value] for name, value in flags.items()}
    return load({"spool": ["s"]} | given, {}, None, "gw.example").settings


def test_passwords_without_a_smart_host_are_a_contradiction():
    with pytest.raises(ConfigError, match="--smarthost-auth: there is no smart host to log in to"):
        settings_of(smarthost_auth="f")


@pytest.mark.parametrize("content", [None, "no certificate", ""])
def test_a_ca_file_without_certificates_is_refused(tmp_path, content):
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        build_security(settings_of(tls_ca=str(path)))
    assert str(caught.value).startswith(f"--tls-ca {path}: no certificates can be read from it (")
    assert str(caught.value).endswith("; name a file of certificates in PEM")


def test_check_config_reads_the_files_too(file, capsys):
    file.write_text("smtp.example me\n")
    given = ["--spool", "s", "--smarthost", "smtp.example", "--smarthost-auth", str(file)]
    assert run(["check-config", *given]) == 2
    assert "line 1: has no password" in capsys.readouterr().err
    file.write_text("smtp.example me secret\n")
    assert run(["check-config", "--effective", *given]) == 0
    assert "secret" not in capsys.readouterr().out


@pytest.mark.parametrize(("level", "warned"), [("may", True), ("encrypt", True), ("verify", False)])
def test_passwords_for_whoever_is_in_between_are_warned_of(file, caplog, level, warned):
    warn_of_passwords(settings_of(smarthost="a", smarthost_auth=str(file), tls=level))
    assert ("whoever is in between" in caplog.text) is warned


def test_nobody_is_warned_where_there_are_no_passwords(caplog):
    warn_of_passwords(settings_of())
    assert caplog.text == ""
