"""TLS, AUTH and limits of outbound sessions as the settings have them, with the files they name."""

import logging

from gwrelay.config import Settings
from gwrelay.credentials import read_credentials
from gwrelay.errors import ConfigError
from gwrelay.mx.exchanges import normal_host
from gwrelay.mx.failures import ResolutionError
from gwrelay.relay.limits import LimitPolicy, SiteLimits
from gwrelay.relay.security import Access, Security
from gwrelay.relay.tlspolicy import VERIFY, Demand, TlsPolicy

logger = logging.getLogger(__name__)

#: Fields of Settings, in the order of SiteLimits.
_LIMITS = (
    *("site_concurrency", "site_concurrency_initial"),
    *("site_message_rate_per_s", "site_connection_rate_per_s"),
)


def build_security(settings: Settings) -> Security:
    """Raises ConfigError for a file that cannot be used."""
    try:
        return Security(
            _policy(settings),
            minimum_version=settings.tls_min,
            ca_file=settings.tls_ca,
            broken_ttl_s=settings.tls_broken_ttl_s,
            smarthosts=_smarthosts(settings),
            auth_without_tls=settings.auth_without_tls,
        )
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(
            f"--tls-ca {settings.tls_ca}: no certificates can be read from it ({reason}); "
            "name a file of certificates in PEM"
        ) from None


def build_limits(settings: Settings) -> LimitPolicy:
    """A destination has limits of its own when its table has one of them."""

    def limits(destination: str) -> SiteLimits:
        return SiteLimits(*(settings.for_destination(field, destination) for field in _LIMITS))

    own = {
        name: limits(name)
        for name, table in settings.destinations.items()
        if not table.keys().isdisjoint(_LIMITS)
    }
    return LimitPolicy(limits(""), own)


def warn_of_passwords(settings: Settings) -> None:
    """Says where a password could be had by somebody else, though all is as it was set."""
    if settings.smarthost_auth and settings.tls != VERIFY:
        logger.warning(
            "passwords go to smart hosts whose certificates are not verified: whoever is in "
            "between can take them; --tls verify prevents that"
        )


def _policy(settings: Settings) -> TlsPolicy:
    def demand(destination: str) -> Demand:
        level = settings.for_destination("tls", destination)
        return Demand(level, settings.for_destination("tls_fallback", destination))

    return TlsPolicy(demand(""), {name: demand(name) for name in settings.destinations})


def _smarthosts(settings: Settings) -> dict[tuple[str, int], Access]:
    credentials = (
        read_credentials(settings.smarthost_auth, settings.smarthost)
        if settings.smarthost_auth
        else {}
    )
    found = {}
    for hop in settings.smarthost:
        try:
            name = normal_host(hop.host)
        except ResolutionError:
            continue  # it will never have an address, and its mail waits for a better name
        found[name, hop.port] = Access(hop.implicit_tls, credentials.get(hop))
    return found
