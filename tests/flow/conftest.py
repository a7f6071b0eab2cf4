"""What the flow tests start and, whatever happens, end."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.gateway import Gateway, StartGateway
from support.peer import Peer


@pytest.fixture
def peer() -> Iterator[Peer]:
    """A polite next hop."""
    with Peer() as running:
        yield running


@pytest.fixture
def start_gateway(tmp_path: Path) -> Iterator[StartGateway]:
    """Start a gateway with the flags given; ends all of them, and looks for bugs in their logs."""
    started: list[Gateway] = []
    with ExitStack() as stack:

        def start(*flags: str, **options: object) -> Gateway:
            gateway = Gateway(tmp_path / f"gateway-{len(started) + 1}", *flags, **options)
            started.append(gateway)
            return stack.enter_context(gateway)

        yield start
    for gateway in started:
        assert "Traceback" not in gateway.log, gateway.log
