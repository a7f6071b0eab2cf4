"""`gwrelay bench cost`, tiny: what it counts is what the sides do.  Never how fast it is."""

from pathlib import Path

from support.benches import bench
from support.processes import program

_SYNCS = ("io_submit", "fdatasync")


def test_what_is_counted_for_each_message_is_what_the_side_does_with_it(tmp_path: Path) -> None:
    program("strace")
    tiny = ("--messages", "40", "--rounds", "1", "--counted", "40")
    sides = ("--side", "accept", "--side", "deliver", "--side", "deliver sendmail")
    accept, deliver, sendmail = bench(tmp_path, "cost", *tiny, *sides)
    assert [line["settings"]["side"] for line in (accept, deliver, sendmail)] == list(sides[1::2])
    # A sync for each message, when there is but one client: by the kernel, or by a thread.
    assert round(sum(accept["figures"]["calls"].get(name, 0) for name in _SYNCS)) == 1
    assert not any(name in accept["baseline"]["calls"] for name in _SYNCS)
    # MAIL, RCPT, DATA and the content, each in a write of its own; or the first three in one.
    assert round(sendmail["figures"]["calls"]["sendto"]) == 4
    assert round(sendmail["baseline"]["calls"]["sendto"]) == 2
    assert deliver["baseline"] == sendmail["baseline"]
    assert round(deliver["figures"]["calls"]["sendto"]) in (1, 2)
    for line in (accept, deliver, sendmail):
        assert line["figures"]["cpu_us"] > 0
