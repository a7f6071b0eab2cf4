"""The command line as people meet it: output, exit status, and what gets loaded."""

import json
import os
import subprocess
import sys
import tomllib

import pytest

from gwrelay.cli import run
from gwrelay.config import TABLE


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in os.environ:
        if name.startswith("GWRELAY_"):
            monkeypatch.delenv(name)


def python(*arguments, **options):
    environ = {name: text for name, text in os.environ.items() if not name.startswith("GWRELAY_")}
    return subprocess.run(
        [sys.executable, *arguments],
        env=environ,
        text=True,
        capture_output=True,
        timeout=30,
        check=False,
        **options,
    )


# Help.


def test_bare_gwrelay_prints_its_commands(capsys):
    assert run([]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Usage: gwrelay")
    for command in ("serve", "demo", "check-config", "version"):
        assert f"\n  {command} " in out


@pytest.mark.parametrize("command", ["serve", "check-config"])
def test_help_lists_every_flag_in_its_section_with_its_default(command, capsys):
    assert run([command, "--help"]) == 0
    out = capsys.readouterr().out
    words = " ".join(out.split())
    for setting in TABLE.values():
        section = out.split(f"\n{setting.section}:\n")[1].split("\n\n")[0]
        assert f"  --{setting.flag} {setting.kind.metavar}" in section
        assert out.count(f"\n  --{setting.flag} ") == 1
        if setting.default:
            assert f"[{setting.default}]" in words


def test_help_says_how_variables_and_files_are_named(capsys):
    run(["serve", "--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert "A flag beats a variable, a variable the file, the file the default." in words


# Mistakes.


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (["serv"], "serve"),
        (["serve", "--concurency", "3"], "--concurrency"),
        (["demo", "--message", "3"], "--messages"),
    ],
)
def test_a_misspelt_word_is_status_2_with_the_nearest_one(arguments, suggestion, capsys):
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert suggestion in captured.err.splitlines()[-1]


@pytest.mark.parametrize("command", ["serve", "check-config"])
def test_a_bad_value_is_status_2_and_one_line(command, capsys):
    assert run([command, "--spool", "s", "--client-timeout", "5"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "gwrelay: error: --client-timeout: '5' is not a duration; "
        "write a number with its unit, like 5m, 300s, 1h30m, 2d or 250ms\n"
    )


def test_serve_without_a_spool_is_status_2_and_says_how_to_give_one(capsys):
    assert run(["serve"]) == 2
    assert capsys.readouterr().err.startswith("gwrelay: error: --spool: not given; write --spool")


def test_a_file_that_cannot_be_read_is_status_2_and_named(tmp_path, capsys):
    missing = str(tmp_path / "missing.toml")
    assert run(["check-config", "--config", missing]) == 2
    assert capsys.readouterr().err == (
        f"gwrelay: error: --config or GWRELAY_CONFIG: cannot read {missing!r}: "
        "No such file or directory; name a file\n"
    )


def serve_raising(exception):
    """`gwrelay serve` in its own process, where the supervisor ends with this exception."""
    return python(
        "-c",
        "import sys, types; supervisor = types.ModuleType('gwrelay.supervisor')\n"
        f"def serve(settings, config, command): raise {exception}\n"
        "supervisor.serve = serve; sys.modules['gwrelay.supervisor'] = supervisor\n"
        "from gwrelay.cli import run; sys.exit(run(['serve', '--spool', 's']))",
    )


@pytest.mark.parametrize("exception", ["ValueError", "EOFError", "BrokenPipeError", "OSError"])
def test_an_unforeseen_exception_is_not_hidden(exception):
    finished = serve_raising(f"{exception}('a bug')")
    assert finished.returncode == 1
    assert finished.stderr.startswith("Traceback")
    assert finished.stderr.splitlines()[-1] == f"{exception}: a bug"


def test_an_interrupt_is_status_130_without_a_traceback():
    finished = serve_raising("KeyboardInterrupt")
    assert finished.returncode == 130
    assert "Traceback" not in finished.stderr


def test_a_reader_that_leaves_early_gets_no_traceback():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as nobody:
        arguments = [sys.executable, "-m", "gwrelay", "check-config", "--spool", "s", "--effective"]
        finished = subprocess.run(
            arguments, stdout=nobody, stderr=subprocess.PIPE, timeout=30, check=False
        )
    assert finished.returncode == 1
    assert finished.stderr == b""


# check-config.


def test_a_good_configuration_is_status_0(capsys):
    assert run(["check-config", "--spool", "s"]) == 0
    assert capsys.readouterr().out == "the configuration is good\n"


def test_flag_beats_variable_beats_file_beats_default(tmp_path, monkeypatch, capsys):
    file = tmp_path / "gw.toml"
    file.write_text('spool = "s"\nmax-hops = 1\nmax-recipients = 2\nretry = ["1m", "2m"]\n')
    monkeypatch.setenv("GWRELAY_CONFIG", str(file))
    monkeypatch.setenv("GWRELAY_MAX_RECIPIENTS", "3")
    monkeypatch.setenv("GWRELAY_MAX_CONNECTIONS", "4")
    assert run(["check-config", "--effective", "--max-connections", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f'max-hops = "1"  # {file}: max-hops' in lines
    assert f'retry = ["1m", "2m"]  # {file}: retry' in lines
    assert 'max-recipients = "3"  # GWRELAY_MAX_RECIPIENTS' in lines
    assert 'max-connections = "5"  # --max-connections' in lines
    assert 'cname-limit = "3"  # default' in lines


def test_warnings_of_delay_are_off_until_a_delay_is_given(tmp_path, capsys):
    assert run(["check-config", "--effective", "--spool", "s"]) == 0
    assert 'delay-warning = "0"  # default' in capsys.readouterr().out.splitlines()
    file = tmp_path / "gw.toml"
    file.write_text('spool = "s"\ndelay-warning = "4h"\n')
    given = ["check-config", "--config", str(file)]
    assert run([*given, "--effective"]) == 0
    effective = capsys.readouterr().out.splitlines()
    assert f'delay-warning = "4h"  # {file}: delay-warning' in effective
    assert run([*given, "--lifetime", "4h"]) == 2
    assert "not less than the lifetime of '4h' (--lifetime)" in capsys.readouterr().err
    assert run([*given, "--delay-warning", "4"]) == 2
    assert "--delay-warning: '4'" in capsys.readouterr().err


def test_effective_prints_a_file_that_reads_back_the_same(tmp_path, capsys):
    given = ["--spool", 'a "strange" \\ näme', "--smarthost", "a,b:26", "--deny-host", "none"]
    assert run(["check-config", "--effective", "--json", *given]) == 0
    wanted = json.loads(capsys.readouterr().out)["settings"]
    assert run(["check-config", "--effective", *given]) == 0
    file = tmp_path / "gw.toml"
    file.write_text(capsys.readouterr().out)
    assert set(tomllib.loads(file.read_text())) == {setting.flag for setting in TABLE.values()}
    assert run(["check-config", "--effective", "--json", "--config", str(file)]) == 0
    read_back = json.loads(capsys.readouterr().out)["settings"]
    assert {k: v["value"] for k, v in read_back.items()} == {
        k: v["value"] for k, v in wanted.items()
    }


def test_effective_in_json_has_value_unit_and_origin(capsys):
    assert run(["check-config", "--effective", "--json", "--spool", "s", "--listen", "h:25"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is True
    assert list(document["settings"]) == [setting.flag for setting in TABLE.values()]
    assert document["settings"]["max-message-size"] == {
        "value": 52_428_800,
        "unit": "bytes",
        "written": "50M",
        "origin": "default",
    }
    assert document["settings"]["listen"]["value"] == [["h", 25, False]]
    assert document["settings"]["relay-from"]["value"] == ["127.0.0.0/8", "::1/128"]


def test_problems_in_json_are_a_list_and_status_2(capsys):
    assert run(["check-config", "--json", "--spool", "s", "--max-hops", "x", "--retry", "y"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert [problem.split(":")[0] for problem in document["problems"]] == ["--max-hops", "--retry"]


# What a command loads.

LOADED = "import sys; print(sorted(m for m in ('gevent', 'rich', 'click') if m in sys.modules))"


@pytest.mark.parametrize(
    ("arguments", "loaded"),
    [
        ([], "['click']"),
        (["--help"], "['click']"),
        (["version"], "['click']"),
        (["check-config", "--spool", "s"], "['click']"),
        (["serve", "--help"], "['click']"),
        (["serve", "--worker", "0", "--help"], "['click', 'gevent']"),
    ],
)
def test_only_commands_that_run_greenlets_load_gevent(arguments, loaded):
    script = (
        "import sys, gwrelay.__main__ as entry\n"
        f"sys.argv = ['gwrelay', *{arguments!r}]\n"
        "try: entry.main()\n"
        f"except SystemExit as end: assert not end.code; {LOADED}"
    )
    finished = python("-c", script)
    assert finished.stdout.splitlines()[-1:] == [loaded], finished.stderr


@pytest.mark.parametrize(
    ("arguments", "patched"),
    [
        (["serve", "--worker", "0", "--help"], "True"),
        (["demo", "--help"], "True"),
        (["serve", "--help"], "False"),
        (["version"], "False"),
    ],
)
def test_the_patch_comes_before_every_other_import(arguments, patched):
    # click is imported by cli.py alone: whatever `socket` is by then, everything of ours sees.
    script = (
        "import sys, gwrelay.__main__ as entry\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('click', 'gwrelay.cli'):\n"
        "            socket = sys.modules.get('socket')\n"
        "            print(name, 'gevent' in getattr(getattr(socket, 'socket', None),"
        " '__module__', ''))\n"
        "sys.meta_path.insert(0, Watch())\n"
        f"sys.argv = ['gwrelay', *{arguments!r}]\n"
        "try: entry.main()\n"
        "except SystemExit: pass"
    )
    lines = python("-c", script).stdout.splitlines()
    assert lines[:1] == [f"gwrelay.cli {patched}"]
    assert f"click {patched}" in lines


@pytest.mark.parametrize("arguments", [["version"], ["--version"]])
def test_python_m_gwrelay_is_the_same_program(arguments):
    finished = python("-m", "gwrelay", *arguments)
    assert finished.returncode == 0
    assert finished.stdout == "gwrelay 0.1.0\n"
