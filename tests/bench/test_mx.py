"""The MX benches, small: they measure what they say, and miss no target in silence."""

import json

from gwrelay_bench.mx import cached, domains
from support.patched import run_patched
from support.processes import program


def test_cached_lookups_are_counted_with_one_exchange_and_with_four() -> None:
    result = cached(domains(20))
    assert result.figures["get_mx_per_s_1_exchanges"] > 1000
    assert result.figures["get_mx_per_s_4_exchanges"] > 1000


def test_the_other_benches_ask_a_real_name_server_and_agree_with_their_counts() -> None:
    program("knotd")  # or Unbound; where neither is, this says how to install it
    done = run_patched("""
        import io, json
        from rich.console import Console
        from gwrelay_bench.measure import emit
        from gwrelay_bench.mx import distinct, domains, print_results, records, refresh
        from gwrelay_bench.nameserver import NameServer

        with NameServer("test.", records(60)) as server:
            results = [distinct(domains(60), server, 10), *refresh(60, server, 2.0)]
        for one in results:
            emit(one)
        shown = io.StringIO()
        print_results(results, Console(file=shown, width=200))
        assert "mx_refresh" in shown.getvalue()
        """)
    distinct, refreshed, memory = map(json.loads, done.stdout.splitlines())
    assert distinct["baseline"]["domains_per_s"] > 0
    assert distinct["ratio"] > 0
    assert distinct["ok"] == (distinct["ratio"] >= distinct["figures"]["target_ratio"])
    assert refreshed["figures"]["refreshed"] >= 60
    assert memory["figures"]["bytes_per_domain"] >= 0
