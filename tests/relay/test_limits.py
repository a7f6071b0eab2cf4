"""Which limits a site has."""

from gwrelay.given import load
from gwrelay.outbound import build_limits
from gwrelay.relay.limits import SiteLimits


def test_the_smaller_of_each_limit_counts_and_none_is_the_largest_rate() -> None:
    one = SiteLimits(5, 9, messages_per_s=2.0)
    other = SiteLimits(8, 3, messages_per_s=3.0, connections_per_s=1.0)
    assert one.within(other) == other.within(one) == SiteLimits(5, 3, 2.0, 1.0)
    assert SiteLimits().within(SiteLimits()) == SiteLimits()


def test_only_destinations_with_a_limit_of_their_own_have_limits_of_their_own() -> None:
    toml = b"""
        site-concurrency = 7
        site-message-rate = "4/s"
        [destination."tls.example"]
        tls = "verify"
        [destination."slow.example"]
        site-connection-rate = "6/m"
        [destination."fast.example"]
        site-message-rate = "none"
        site-concurrency-initial = 9
    """
    loaded = load({"spool": ["/var/spool/gwrelay"]}, {}, ("gw.toml", toml), "gw.example")
    limits = build_limits(loaded.settings)
    assert limits.usual == SiteLimits(7, 5, 4.0, 0.0)
    assert limits.own == {
        "slow.example": SiteLimits(7, 5, 4.0, 0.1),
        "fast.example": SiteLimits(7, 9, 0.0, 0.0),
    }
