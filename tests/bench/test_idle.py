"""`gwrelay bench idle`, tiny: what it prints is whole and consistent, never how little it is."""

from pathlib import Path

import pytest
from gevent import socket

from gwrelay_bench.exchanges import Exchanges
from support.benches import bench


@pytest.mark.parametrize("dead", ["refuses", "hangs"])
def test_all_waits_for_a_dead_host_which_is_probed(tmp_path: Path, dead: str) -> None:
    # A probe of a host that hangs takes 3 s, and the next one begins up to 1 s later.
    seconds = "8" if dead == "hangs" else "4"
    tiny = ("--messages", "60", "--seconds", seconds, "--bad-time", "1s..1s", "--limit", "30")
    [line] = bench(tmp_path, "idle", *tiny, *(["--hangs"] if dead == "hangs" else []))
    assert line["settings"]["dead_host"] == dead
    assert line["settings"]["messages"] == 60
    figures, empty = line["figures"], line["baseline"]
    assert figures["probes"] >= 1
    assert empty["probes"] == 0
    for found in (figures, empty):
        assert found["core_share"] >= 0
        assert found["wakes_per_s"] > 0
        assert found["resident_bytes"] > 0
    assert [target["figure"] for target in line["targets"]] == ["core_share", "probes"]


def test_the_host_that_is_down_refuses_or_does_not_answer() -> None:
    with Exchanges() as refusing, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.3", refusing.smtp_port), 5)
    with Exchanges(down_hangs=True) as hanging, pytest.raises(TimeoutError):
        socket.create_connection(("127.0.0.3", hanging.smtp_port), 0.2)
