"""The MXCalculator that the settings ask for: of a gateway, or of `gwrelay mx lookup`."""

import time
from collections.abc import Sequence

from gwrelay.config import Settings
from gwrelay.mx.calculator import MXCalculator
from gwrelay.mx.denied import Denied
from gwrelay.mx.exchanges import Rules
from gwrelay.mx.marks import Held
from gwrelay.mx.ourselves import own_address_test
from gwrelay.mx.policy import MXPolicy
from gwrelay.mx.resolver import DNSResolver
from gwrelay.notation import Endpoint


def build_calculator(
    settings: Settings, listening: Sequence[Endpoint], marks: Held | None = None
) -> MXCalculator:
    """`listening` is where mail for ourselves would arrive; `marks` are other workers', too.  Its
    clock gives Unix seconds."""
    policy = build_policy(settings, listening)
    return MXCalculator(build_resolver(settings), time.time, policy=policy, marks=marks)


def build_resolver(settings: Settings) -> DNSResolver:
    """Raises ConfigError when no name server is known."""
    servers = [str(server) for server in settings.resolver]
    return DNSResolver(servers, timeout_s=settings.dns_timeout_s)


def build_policy(settings: Settings, listening: Sequence[Endpoint]) -> MXPolicy:
    family = settings.ip_family
    rules = Rules(
        cname_limit=settings.cname_limit,
        families={"4": ("A",), "6": ("AAAA",)}.get(family, ("A", "AAAA")),  # type: ignore[arg-type]
        nxdomain_defers=settings.nxdomain == "defer",
        denied=_denied(settings),
        is_own=own_address_test(listening, settings.smtp_port),
    )
    first_s, max_s = settings.mx_bad_time_s
    return MXPolicy(
        rules=rules,
        prefer_family={"prefer4": "4", "prefer6": "6"}.get(family, ""),
        max_hosts=settings.mx_max_hosts,
        dns_concurrency=settings.dns_concurrency,
        cache_size=settings.mx_cache_size,
        ttl_min_s=settings.mx_ttl_min_s,
        ttl_max_s=settings.mx_ttl_max_s,
        negative_ttl_max_s=settings.mx_negative_ttl_s,
        stale_on_error_s=settings.mx_stale_on_error_s,
        refresh_ahead=settings.mx_refresh_ahead_share,
        bad_time_first_s=first_s,
        bad_time_max_s=max_s,
    )


def _denied(settings: Settings) -> Denied:
    networks = tuple(rule for rule in settings.deny_host if not isinstance(rule, str))
    patterns = tuple(rule for rule in settings.deny_host if isinstance(rule, str))
    return Denied(networks, patterns)
