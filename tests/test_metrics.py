"""What is counted, and the page that Prometheus reads."""

import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gwrelay import __version__
from gwrelay.admin.metricspage import Page
from gwrelay.metrics import Histogram, Metrics, by_label, counter, gauge, histogram

Told = list[tuple[int, list[dict[str, Any]] | None]]


def read_page(page: Page, path: str = "/metrics") -> dict[tuple[str, tuple[str, ...]], float]:
    """{(sample, label values): value}."""
    host, port = page.address
    at = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    with urllib.request.urlopen(at + path, timeout=5) as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def told() -> Told:
    """What the page is told by the workers."""
    return []


@pytest.fixture
def page(told: Told) -> Iterator[Page]:
    page = Page(("127.0.0.1", 0), lambda: told)
    yield page
    page.close()


def families(*given: Any) -> list[dict[str, Any]]:
    return [one._asdict() for one in given]


def test_a_value_counts_in_the_first_bucket_whose_end_is_not_below_it() -> None:
    about = Histogram((1.0, 2.0, 5.0))
    for value in (0.0, 1.0, 1.5, 5.0, 5.1, 100.0):
        about.observe(value)
    assert about.counts == [2, 1, 1, 2]
    assert about.total == pytest.approx(112.6)


def test_each_workers_numbers_are_on_the_page_with_its_label(page: Page, told: Told) -> None:
    states = {"waiting": 3, "held": 1}
    by_state = by_label("deliveries", "gauge", "By state.", "state", states)
    told += [
        (0, families(counter("accepted_messages", "Taken.", 7), by_state)),
        (1, families(counter("accepted_messages", "Taken.", 5))),
    ]
    samples = read_page(page)
    assert samples["gwrelay_accepted_messages_total", ("0",)] == 7
    assert samples["gwrelay_accepted_messages_total", ("1",)] == 5
    assert samples["gwrelay_deliveries", ("waiting", "0")] == 3
    assert samples["gwrelay_worker_up", ("1",)] == 1


def test_a_worker_that_does_not_answer_is_down_and_the_others_are_told(
    page: Page, told: Told
) -> None:
    told += [(0, families(gauge("relayers", "At work.", 2))), (1, None)]
    samples = read_page(page)
    assert samples["gwrelay_worker_up", ("0",)] == 1
    assert samples["gwrelay_worker_up", ("1",)] == 0
    assert samples["gwrelay_relayers", ("0",)] == 2


def test_buckets_are_summed_up_as_prometheus_wants_them(page: Page, told: Told) -> None:
    metrics = Metrics()
    for seconds in (0.0005, 0.002, 0.3, 99.0):
        metrics.loop_lag_s.observe(seconds)
    told.append((0, families(histogram("loop_lag_seconds", "Late.", metrics.loop_lag_s))))
    samples = read_page(page)
    bucket = "gwrelay_loop_lag_seconds_bucket"
    by_end = {labels[0]: v for (name, labels), v in samples.items() if name == bucket}
    assert (by_end["0.001"], by_end["0.0025"], by_end["0.5"], by_end["+Inf"]) == (1, 2, 3, 4)
    assert samples["gwrelay_loop_lag_seconds_count", ("0",)] == 4
    assert samples["gwrelay_loop_lag_seconds_sum", ("0",)] == pytest.approx(99.3025)


def test_nothing_else_is_served(page: Page) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        read_page(page, "/etc/passwd")
    assert caught.value.code == 404


def test_the_page_is_served_over_ipv6_too(told: Told) -> None:
    page = Page(("::1", 0), lambda: told)
    assert ("gwrelay_info", (__version__,)) in read_page(page)
    page.close()


def test_a_port_in_use_is_an_error_at_once(page: Page) -> None:
    with pytest.raises(OSError, match="in use"):
        Page(page.address, list)
