"""What Prometheus is told of a gateway, and a port to tell it at."""

import socket
import urllib.request

from prometheus_client.parser import text_string_to_metric_families


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


def read_metrics(port: int) -> dict[tuple[str, ...], float]:
    """Values by name and labels, but for the worker's; of all workers together."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    found: dict[tuple[str, ...], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {name: word for name, word in sample.labels.items() if name != "worker"}
            key = (sample.name.removeprefix("gwrelay_"), *labels.values())
            found[key] = found.get(key, 0.0) + sample.value
    return found
