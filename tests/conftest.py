"""Two rules: nothing is skipped where nothing may be, and no test is about how fast it is.

With GWRELAY_TEST_NO_SKIP=1 (as .ci/run sets it, once everything is installed) a skip is a failure:
otherwise a program that quietly went missing would turn the flow tests into decoration.
"""

import os
import shutil
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A machine with other work to do must not make an example fail.
settings.register_profile("gwrelay", deadline=None)
settings.load_profile("gwrelay")

# What a shell runs in the background is born deaf to Ctrl-C, and so would be whatever we start,
# and interrupt, from there.
signal.signal(signal.SIGINT, signal.default_int_handler)

NO_SKIP = os.environ.get("GWRELAY_TEST_NO_SKIP", "") not in ("", "0")


def _forbid(report: pytest.TestReport | pytest.CollectReport) -> None:
    if NO_SKIP and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"GWRELAY_TEST_NO_SKIP is set, but: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _forbid(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _forbid(report)
    return report


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """An empty directory that other users may enter, for servers that give up being root."""
    directory = Path(tempfile.mkdtemp(prefix="gwrelay-servers-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)
