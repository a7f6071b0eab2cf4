"""The log for people: one event a line, whatever hostile text is in it."""

import logging
import re

import pytest

from gwrelay.diagnostics import OneLine, reopen_log, start_log
from gwrelay.errors import ConfigError


@pytest.fixture
def root_logger():
    """The root logger, put back as it was."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level, logging.raiseExceptions)
    yield root
    root.handlers[:], logging.raiseExceptions = before[0], before[2]
    root.setLevel(before[1])


def formatted(message, *arguments):
    record = logging.LogRecord("gwrelay", logging.INFO, "", 0, message, arguments, None)
    return OneLine("%(levelname)s %(message)s").format(record)


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("a\r\nINFO forged", "a\\x0d\\x0aINFO forged"),
        ("\x1b[2J", "\\x1b[2J"),
        ("nul\x00", "nul\\x00"),
        ("\x85", "\\x85"),
        ("100% %s", "100% %s"),
        ("grüße", "grüße"),
    ],
)
def test_control_characters_are_escaped(hostile, shown):
    assert formatted("%s", hostile) == f"INFO {shown}"


def test_a_log_that_cannot_be_opened_is_a_mistake_that_is_named(tmp_path, root_logger):
    path = tmp_path / "none" / "log"
    with pytest.raises(ConfigError, match=re.escape(f"--log {path}: No such file or directory")):
        start_log(str(path), "info")


def test_lines_of_several_processes_are_told_apart_by_a_tag(tmp_path, root_logger):
    start_log(str(tmp_path / "log"), "info", "[3]")
    logging.getLogger("gwrelay.service").info("stopping")
    assert (tmp_path / "log").read_text().endswith(" INFO gwrelay.service[3]: stopping\n")


def test_a_traceback_keeps_its_lines():
    try:
        raise ValueError("x")
    except ValueError as error:
        trace = (type(error), error, error.__traceback__)
    record = logging.LogRecord("gwrelay", logging.ERROR, "", 0, "bug", (), trace)
    assert "\nTraceback" in OneLine("%(message)s").format(record)


def test_after_a_rename_and_reopen_the_log_goes_to_a_new_file(tmp_path, root_logger):
    handler = start_log(str(tmp_path / "log"), "info")
    root_logger.info("first")
    (tmp_path / "log").rename(tmp_path / "log.1")
    reopen_log(handler)
    root_logger.info("second")
    handler.close()
    assert "first" in (tmp_path / "log.1").read_text()
    assert "second" in (tmp_path / "log").read_text()


def test_the_level_is_obeyed(tmp_path, root_logger):
    handler = start_log(str(tmp_path / "log"), "warning")
    root_logger.info("quiet")
    root_logger.warning("loud")
    handler.close()
    assert "loud" in (tmp_path / "log").read_text()
    assert "quiet" not in (tmp_path / "log").read_text()
