"""Tables of the file for one destination: what they may hold, and what is said of the rest."""

import json
import tomllib

import pytest

from gwrelay.cli import run
from gwrelay.errors import ConfigError
from gwrelay.given import load

FLAGS = {"spool": ["/var/spool/gwrelay"]}


def load_file(toml):
    return load(FLAGS, {}, ("gw.toml", toml.encode()), "gw.example")


def problems_of(toml):
    with pytest.raises(ConfigError) as caught:
        load_file(toml)
    return str(caught.value).splitlines()


def test_a_destination_has_its_own_value_and_the_others_the_usual_one():
    settings = load_file("""
        tls = "encrypt"
        [destination."bank.example"]
        tls = "verify"
        [destination."old.example"]
        tls = "may"
        tls-fallback = "no"
    """).settings
    assert settings.for_destination("tls", "bank.example") == "verify"
    assert settings.for_destination("tls", "old.example") == "may"
    assert settings.for_destination("tls", "www.bank.example") == "encrypt"
    assert settings.for_destination("tls_fallback", "old.example") is False
    assert settings.for_destination("tls_fallback", "bank.example") is True


def test_flags_and_variables_are_for_all_the_others():
    toml = '[destination."bank.example"]\ntls = "verify"\n'
    file = ("gw.toml", toml.encode())
    settings = load(FLAGS | {"tls": ["off"]}, {"GWRELAY_TLS": "may"}, file, "gw.example").settings
    assert settings.tls == "off"
    assert settings.for_destination("tls", "bank.example") == "verify"


@pytest.mark.parametrize(
    ("written", "destination"),
    [
        ("bank.example", "bank.example"),
        ("Bank.Example.", "bank.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("[192.0.2.1]", "[192.0.2.1]"),
        ("[IPv6:2001:db8::1]", "[ipv6:2001:db8::1]"),
    ],
)
def test_destinations_are_named_as_deliveries_have_them(written, destination):
    loaded = load_file(f'[destination."{written}"]\ntls = "off"\n')
    assert loaded.settings.for_destination("tls", destination) == "off"


@pytest.mark.parametrize(
    ("toml", "problem"),
    [
        (
            '[destination."a.example"]\ntsl = "may"',
            "gw.toml: [destination.\"a.example\"]: unknown key 'tsl'; did you mean tls?",
        ),
        (
            '[destination."a.example"]\ncolour = "red"',
            "gw.toml: [destination.\"a.example\"]: unknown key 'colour'",
        ),
        (
            '[destination."a.example"]\nspool = "x"',
            'gw.toml: [destination."a.example"]: spool is for all destinations; '
            "one may have site-concurrency, site-concurrency-initial, site-message-rate, "
            "site-connection-rate, tls, tls-fallback",
        ),
        (
            '[destination."a.example"]\ntls = "always"',
            "gw.toml: [destination.\"a.example\"] tls: 'always' is not one of the choices; "
            "write off, may, encrypt or verify",
        ),
        (
            '[destination."a.example"]\ntls-fallback = true',
            'gw.toml: [destination."a.example"] tls-fallback: neither text nor a number; '
            "write yes or no, in quotes",
        ),
        (
            '[destination."a..example"]\ntls = "may"',
            "gw.toml: [destination.\"a..example\"]: 'a..example' is not a domain; "
            'write a table like [destination."example.com"]',
        ),
        (
            '[destination."[192.0.2]"]\ntls = "may"',
            "gw.toml: [destination.\"[192.0.2]\"]: '[192.0.2]' is not an address literal; "
            'write a table like [destination."example.com"]',
        ),
        (
            '[destination]\ntls = "may"',
            'gw.toml: [destination."tls"]: is not a table; write a table like '
            '[destination."example.com"], with its keys below',
        ),
        (
            "destination = 5",
            'gw.toml: destination: is not a table; write a table like [destination."example.com"]',
        ),
        (
            '[destination."a.example"]\ntls = "may"\n[destination."A.example"]\ntls = "off"',
            'gw.toml: [destination."A.example"]: a.example has a table already; write one of them',
        ),
        (
            '[destinations."a.example"]\ntls = "may"',
            "gw.toml: unknown key 'destinations'; did you mean destination?",
        ),
    ],
)
def test_a_mistake_in_a_table_is_one_line_with_its_place(toml, problem):
    assert problems_of(toml) == [problem]


def test_every_problem_is_told_at_once():
    toml = 'tls = "x"\n[destination."a.example"]\ntls = "y"\n[destination."b.example"]\nt = 1\n'
    assert len(problems_of(toml)) == 3


def test_effective_prints_the_tables_and_reads_them_back(tmp_path, capsys):
    file = tmp_path / "gw.toml"
    file.write_text('spool = "s"\n[destination."Bank.example"]\ntls = "verify"\n')
    assert run(["check-config", "--effective", "--config", str(file)]) == 0
    printed = capsys.readouterr().out
    assert f'tls = "verify"  # {file}: [destination."Bank.example"] tls' in printed
    assert tomllib.loads(printed)["destination"] == {"bank.example": {"tls": "verify"}}

    file.write_text(printed)
    assert run(["check-config", "--effective", "--json", "--config", str(file)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["destinations"]["bank.example"]["tls"]["value"] == "verify"
    assert document["settings"]["tls"]["value"] == "may"
