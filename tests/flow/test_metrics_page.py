"""`--metrics`: what Prometheus is told while mail goes through."""

import socket

from support.clients import submit
from support.commands import gwrelay
from support.gateway import StartGateway
from support.metrics import free_port, read_metrics
from support.peer import Peer


def test_what_becomes_of_mail_is_counted(start_gateway: StartGateway, peer: Peer) -> None:
    peer.recipient("no@b.example", "550 5.1.1 nobody")
    peer.recipient("later@b.example", "450 4.2.1 greylisted")
    port = free_port()
    flags = ["--metrics", f"127.0.0.1:{port}", "--workers", "2"]
    gateway = start_gateway("--smarthost", peer.spec, *flags)
    for who in ("yes", "no", "later"):
        submit(gateway.port, "me@a.example", [f"{who}@b.example"])
    gateway.wait_for("delivered", recipient="yes@b.example")
    gateway.wait_for("delivered", recipient="me@a.example")
    gateway.wait_for("deferred")
    told = read_metrics(port)
    assert told["worker_up",] == 2
    assert told["accepted_messages_total",] == 3
    assert told["recipients_total", "delivered"] == 2
    assert told["recipients_total", "bounced"] == 1
    assert told["recipients_total", "deferred"] == 1
    assert told["reports_total",] == 1
    assert told["deliveries", "waiting"] == 1
    assert told["delivery_delay_seconds_count",] == 2
    assert told["commit_seconds_count",] >= 3
    assert told["spool_syncs_total",] >= 3
    assert told["violations_total",] == told["stuck",] == 0
    assert 0 < told["oldest_message_age_seconds",] < 60


def test_a_port_in_use_keeps_serve_from_starting(start_gateway: StartGateway) -> None:
    gateway = start_gateway("--smarthost", "127.0.0.1:9")
    gateway.terminate()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        at = f"127.0.0.1:{taken.getsockname()[1]}"
        flags = ["--listen", "127.0.0.1:0", "--smarthost", "127.0.0.1:9", "--metrics", at]
        done = gwrelay("serve", *flags, at=gateway, status=2)
    assert f"--metrics {at}: Address already in use" in done.stderr.decode()
