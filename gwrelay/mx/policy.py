"""The calculator's limits, each with its unit.  config.py fills them in."""

from typing import NamedTuple

from gwrelay.mx.exchanges import Rules


class MXPolicy(NamedTuple):
    """The flags of `serve` are named in brackets."""

    rules: Rules = Rules()
    #: "4" or "6": tried first within one preference; "": balanced (--ip-family).
    prefer_family: str = ""
    #: Addresses tried in one attempt (--mx-max-hosts).
    max_hosts: int = 5
    #: Questions under way at once (--dns-concurrency).
    dns_concurrency: int = 128
    #: For all questions about one domain together: a hundred silent name servers, one after
    #: the other, must not keep a delivery waiting for ten minutes.
    lookup_s: float = 30.0
    #: Domains remembered, and as many answers about hosts (--mx-cache-size).
    cache_size: int = 50_000
    #: Answers are remembered for their TTL within these (--mx-ttl-min, --mx-ttl-max).
    ttl_min_s: float = 60.0
    ttl_max_s: float = 86_400.0
    #: A "no" is remembered no longer than this (--mx-negative-ttl).
    negative_ttl_max_s: float = 300.0
    #: A failed lookup is remembered so long: enough to spare the name server a burst, too short
    #: to hold up mail once it answers again.
    failure_ttl_s: float = 5.0
    #: Old answers are good for that much longer while lookups fail (--mx-stale-on-error).
    stale_on_error_s: float = 3_600.0
    #: Share of its TTL that is left when an answer in use is refreshed (--mx-refresh-ahead).
    refresh_ahead: float = 0.2
    #: Refreshes a second by one `run`.
    refresh_rate: float = 200.0
    #: The first bad-host mark, and the longest (--mx-bad-time FIRST..MAX).
    bad_time_first_s: float = 30.0
    bad_time_max_s: float = 3_600.0
    #: Share by which a mark may be shorter, so that hosts do not all come back at once.
    bad_time_jitter: float = 0.15
