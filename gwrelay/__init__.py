"""gwrelay: an outbound SMTP relay gateway that loses nothing it accepted.

The names below load on first use: importing this package must load neither gevent nor
anything that opens sockets, for it happens before the monkey patch.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "ManagedRelayerMixin": "gwrelay.relay.relayer",
    "SMTPManagedRelayer": "gwrelay.relay.relayer",
    "ESMTPManagedRelayer": "gwrelay.relay.relayer",
    "SMTPManagedRelayerFactory": "gwrelay.relay.relayer",
    "ESMTPManagedRelayerFactory": "gwrelay.relay.relayer",
    "AttemptManager": "gwrelay.relay.attempt",
    "SmartHostSMTPRelayingManager": "gwrelay.relay.manager",
    "SmartHostESMTPRelayingManager": "gwrelay.relay.manager",
    "RelayStateHelper": "gwrelay.relay.manager",
    "Queue": "gwrelay.queue.mailqueue",
    "MXCalculator": "gwrelay.mx.calculator",
    "CanonicalNameLoop": "gwrelay.mx.exchanges",
    "CanonicalNameChainTooLong": "gwrelay.mx.exchanges",
}

__all__ = [
    "AttemptManager",
    "CanonicalNameChainTooLong",
    "CanonicalNameLoop",
    "ESMTPManagedRelayer",
    "ESMTPManagedRelayerFactory",
    "MXCalculator",
    "ManagedRelayerMixin",
    "Queue",
    "RelayStateHelper",
    "SMTPManagedRelayer",
    "SMTPManagedRelayerFactory",
    "SmartHostESMTPRelayingManager",
    "SmartHostSMTPRelayingManager",
]


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
