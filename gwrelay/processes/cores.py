"""How many cores this process may use."""

import math
import os
from pathlib import Path

#: The share that a container has of the machine: "QUOTA PERIOD", microseconds, or "max PERIOD".
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores(quota: Path = _QUOTA) -> int:
    """At least 1.  A quota of one and a half cores needs two processes to be used up."""
    cores = len(os.sched_getaffinity(0))
    try:
        allowed, period = quota.read_text().split()
        return max(1, min(cores, math.ceil(int(allowed) / int(period))))
    except (OSError, ValueError):
        return cores  # no control groups, or no limit
