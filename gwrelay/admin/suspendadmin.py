"""What the control socket does about suspensions: add, list, cancel.

suspendtools.py prints what these return.  Times are Unix seconds.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gwrelay.admin import suspensionfile
from gwrelay.admin.server import Handler
from gwrelay.errors import CommandFailed
from gwrelay.relay.sites import Sites
from gwrelay.relay.suspensions import Suspended, SuspendedKey


def suspend_handlers(
    sites: Sites, directory: str, clock: Callable[[], float] = time.time
) -> Mapping[str, Handler]:
    """The commands by name; `directory` keeps the suspensions, as serve's --spool."""

    def add(kind: str, name: str, for_s: float, reason: str) -> dict[str, Any]:
        """Suspend it, or suspend it for another time."""
        now = clock()
        known = sites.suspensions.get((kind, name))
        since = known.since if known is not None and known.until > now else now
        suspended = Suspended(kind, name, since, now + for_s, reason)
        # In the file first: what an operator is told is suspended stays so over a crash.
        save([s for s in sites.suspensions.running() if s.key != suspended.key] + [suspended])
        sites.suspend(suspended)
        return record(suspended)

    def running() -> Iterator[dict[str, Any]]:
        """Those that are not over, the one that ends first at the top."""
        for suspended in sites.suspensions.running():
            yield record(suspended)

    def cancel(keys: list[SuspendedKey], everything: bool) -> dict[str, Any]:
        """End these, or all."""
        found = sites.suspensions.running()
        wanted = {s.key for s in found} if everything else {(kind, name) for kind, name in keys}
        unknown = wanted - {s.key for s in found}
        if not wanted:
            raise CommandFailed(1, "nothing is suspended")
        if unknown:
            names = ", ".join(f"{kind}:{name}" for kind, name in sorted(unknown))
            raise CommandFailed(1, f"not suspended: {names}")
        save([s for s in found if s.key not in wanted])
        for key in wanted:
            sites.end_suspension(key)
        return {"ended": len(wanted)}

    def save(suspended: list[Suspended]) -> None:
        try:
            suspensionfile.write(directory, suspended)
        except OSError as error:
            raise CommandFailed(
                1, f"nothing was changed: {directory} cannot be written: {error.strerror}"
            ) from error

    def record(suspended: Suspended) -> dict[str, Any]:
        return {**suspended._asdict(), "parked": sites.suspensions.count(suspended.key)}

    return {"suspend add": add, "suspend list": running, "suspend cancel": cancel}
