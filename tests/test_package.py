"""What `import gwrelay` gives, and what it must not load."""

import subprocess
import sys

import pytest

import gwrelay

NAMES = [
    "ManagedRelayerMixin",
    "SMTPManagedRelayer",
    "ESMTPManagedRelayer",
    "SMTPManagedRelayerFactory",
    "ESMTPManagedRelayerFactory",
    "Queue",
    "SmartHostSMTPRelayingManager",
    "SmartHostESMTPRelayingManager",
    "RelayStateHelper",
    "AttemptManager",
    "MXCalculator",
    "CanonicalNameLoop",
    "CanonicalNameChainTooLong",
]


@pytest.mark.parametrize("name", NAMES)
def test_the_ancestors_name_is_importable(name):
    assert getattr(gwrelay, name).__name__ == name
    assert name in dir(gwrelay)


def test_all_lists_exactly_the_ancestors_names():
    assert sorted(gwrelay.__all__) == sorted(NAMES)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Relay'"):
        gwrelay.Relay  # noqa: B018


@pytest.mark.parametrize("module", ["gevent", "socket", "ssl", "dns"])
def test_importing_the_package_loads_nothing_that_must_be_patched_first(module):
    script = f"import gwrelay, sys; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
