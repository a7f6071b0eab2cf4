"""What the control socket does about MX: handlers over a running gateway's calculator.

mxtools.py prints what these return.  Times are Unix seconds, as the calculator's clock gives
them in a gateway.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gwrelay.admin.server import Handler
from gwrelay.errors import CommandFailed
from gwrelay.mx.cache import Entry
from gwrelay.mx.calculator import MXCalculator
from gwrelay.mx.failures import ResolutionError
from gwrelay.mx.lookups import Chained, Host, Key, Outcome, normal_key
from gwrelay.relay.manager import SmartHostSMTPRelayingManager


def mx_handlers(
    calculator: MXCalculator, manager: SmartHostSMTPRelayingManager
) -> Mapping[str, Handler]:
    """The commands by name."""

    def cache(domains: list[str]) -> Iterator[dict[str, Any]]:
        """What is remembered, of everything or of these."""
        wanted = {_key(domain) for domain in domains}
        found = False
        for key, entry in calculator.lookups.entries():
            if not wanted or key in wanted:
                found = True
                yield _remembered(key, entry)
        if wanted and not found:
            raise CommandFailed(1, f"nothing is remembered of {_listed(domains)}")

    def bad() -> Iterator[dict[str, Any]]:
        """The running marks, those by name first."""
        names, marks = calculator.bad_hosts()
        for name, until in names.items():
            yield {"host": name, "port": 0, "source": "", "set_at": None, "until": until, "why": ""}
        for mark in marks:
            yield {
                "host": mark.address,
                "port": mark.port,
                "source": mark.source,
                "set_at": mark.set_at,
                "until": mark.until,
                "why": mark.why,
            }

    def flush(domains: list[str]) -> dict[str, Any]:
        """Forget these, or everything when none is named."""
        if not domains:
            keys = [key for key, _ in calculator.lookups.entries()]
            return {"flushed": sum(map(calculator.lookups.forget, keys))}
        unknown = [domain for domain in domains if not _flushed(calculator, domain)]
        if unknown:
            raise CommandFailed(1, f"nothing is remembered of {_listed(unknown)}")
        return {"flushed": len(domains)}

    def mark_bad(host: str, for_s: float | None = None) -> dict[str, Any]:
        """Leave a host alone; at all its addresses when it is a name."""
        calculator.mark_bad(host, for_s)
        addresses = sorted(calculator.lookups.addresses_of(host.lower().removesuffix(".")))
        lasts_s = calculator.time_out_bad_mx if for_s is None else for_s
        return {"host": host, "addresses": addresses, "for_s": lasts_s}

    def mark_good(host: str) -> dict[str, Any]:
        """Forget a host's marks, and let the mail go that waited for it."""
        was_marked = calculator.mark_good(host)
        # Another worker may have taken it away just now.
        manager.wake_sites()
        if not was_marked:
            raise CommandFailed(1, f"{host} bears no mark")
        return {"host": host}

    return {
        "mx cache": cache,
        "mx bad": bad,
        "mx flush": flush,
        "mx mark-bad": mark_bad,
        "mx mark-good": mark_good,
    }


def _remembered(key: Key, entry: Entry[Outcome]) -> dict[str, Any]:
    outcome = entry.value
    no = isinstance(outcome, ResolutionError)
    return {
        "name": key if isinstance(key, str) else key[0],
        "smarthost": isinstance(key, Host),
        "cname_limit": key.cname_limit if isinstance(key, Chained) else None,
        "exchanges": [] if isinstance(outcome, ResolutionError) else list(outcome),
        "reply": str(outcome.reply) if isinstance(outcome, ResolutionError) else None,
        "made_at": entry.made_at,
        "used_at": max(entry.used_at, entry.made_at),
        "expires_at": entry.expires_at,
        # A "no" is not refreshed, only dropped.
        "refresh_at": None if no else entry.visit_at,
        "failing": entry.failing,
    }


def _flushed(calculator: MXCalculator, domain: str) -> bool:
    try:
        return calculator.flush(domain)
    except ResolutionError as error:
        raise CommandFailed(2, error.reply.text) from error


def _key(domain: str) -> Key:
    try:
        return normal_key(domain)
    except ResolutionError as error:
        raise CommandFailed(2, error.reply.text) from error


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
