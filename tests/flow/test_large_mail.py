"""Mail larger than memory has room for, several at a time: through, unchanged, in pieces."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from support.digests import DigestSink, send_large
from support.gateway import StartGateway

MEGABYTE = 1024 * 1024
#: About a megabyte, every line of it different, with stuffed dots at the starts of some.
BLOCK = b"".join(b"%s%06d %s\r\n" % (b".." * (n % 7 == 0), n, b"x" * 70) for n in range(13_200))


def resident_mb(pid: int, field: str) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) / 1024


def test_four_messages_of_100_mb_at_once_cost_a_bounded_amount_of_memory(
    start_gateway: StartGateway,
) -> None:
    with DigestSink() as sink:
        gateway = start_gateway("--smarthost", sink.spec, "--max-message-size", "120M")
        pid = gateway.worker_pid
        send_large(gateway.port, "first@large.example", BLOCK, 1)
        gateway.wait_for("delivered")
        idle_mb = resident_mb(pid, "VmRSS")
        with ThreadPoolExecutor(4) as pool:
            count = 100 * MEGABYTE // len(BLOCK) + 1
            to = [f"{n}@large.example" for n in range(4)]
            sent = list(pool.map(lambda who: send_large(gateway.port, who, BLOCK, count), to))
        gateway.wait_for("delivered", count=5, timeout=120)
        assert sorted(sink.digests[1:]) == sorted(sent)
        assert all(digest.size_bytes >= 100 * MEGABYTE for digest in sent)
        assert resident_mb(pid, "VmHWM") - idle_mb < 300
