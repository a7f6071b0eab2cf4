"""Where the control sockets of a gateway's workers are."""

import socket
from pathlib import Path

import pytest

from gwrelay.admin.control import is_abandoned, worker_socket, workers_at


def test_the_first_workers_socket_is_the_gateways() -> None:
    assert worker_socket("/run/gw/admin.sock", 0) == "/run/gw/admin.sock"
    assert worker_socket("/run/gw/admin.sock", 12) == "/run/gw/admin.worker-12.sock"
    assert worker_socket("/run/gw.d/control", 1) == "/run/gw.d/control.worker-1"


def test_sockets_are_found_by_their_names_in_the_order_of_workers(tmp_path: Path) -> None:
    gateway = str(tmp_path / "admin.sock")
    paths = {number: worker_socket(gateway, number) for number in (0, 1, 2, 10)}
    for path in paths.values():
        Path(path).touch()
    for other in ("admin.worker-x.sock", "admin.worker-01.sock", "admin.worker-3", "xadmin.sock"):
        (tmp_path / other).touch()
    assert list(workers_at(gateway).items()) == list(paths.items())


@pytest.mark.parametrize("name", ["admin.sock", "none/admin.sock"])
def test_the_first_is_named_also_where_nothing_is(tmp_path: Path, name: str) -> None:
    assert workers_at(str(tmp_path / name)) == {0: str(tmp_path / name)}


def test_a_socket_is_abandoned_when_nobody_listens(tmp_path: Path) -> None:
    path = str(tmp_path / "admin.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        assert not is_abandoned(path)
    assert is_abandoned(path)
