"""What a load is made of: sizes and domains by weight, and what a sink knows it by."""

import hashlib
import json
from collections import Counter

import pytest

from gwrelay_bench.mix import Letters, Mix, read_domains, read_sizes
from gwrelay_bench.sinksession import unstuffed
from gwrelay_bench.tally import known_by

MANY = 4000


def recipients(letters: Letters, number: int) -> list[str]:
    return [line.decode()[9:-3] for line in letters.commands(number)[1:-1]]


def test_sizes_and_domains_are_read_with_their_weights() -> None:
    assert read_sizes("4K") == ((4096, 1.0),)
    assert read_sizes("2K:50, 1M:0.5") == ((2048, 50.0), (1024 * 1024, 0.5))
    assert read_domains("a.example:3,b.example") == (("a.example", 3.0), ("b.example", 1.0))
    assert read_domains("3") == tuple((f"d{number}.example", 1.0) for number in range(3))


@pytest.mark.parametrize("text", ["", "x", "2K:", "2K:0", "2K:-1", "2K:nan", "10", "2G", "2K,,4K"])
def test_sizes_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is |has "):
        read_sizes(text)


@pytest.mark.parametrize("text", ["", "0", "a.example:x", "a b", "u@a.example", "99999999"])
def test_domains_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is |has "):
        read_domains(text)


def test_weights_say_how_often_and_a_run_is_like_the_next() -> None:
    mix = Mix(((1000, 9.0), (5000, 1.0)), (("a.example", 3.0), ("b.example", 1.0)))
    one, again = Letters(mix, "one"), Letters(mix, "two")
    sizes = Counter(len(one.content(number)) > 3000 for number in range(MANY))
    domains = Counter(recipients(one, number)[0].partition("@")[2] for number in range(MANY))
    assert sizes[True] / MANY == pytest.approx(0.1, abs=0.03)
    assert domains["a.example"] / MANY == pytest.approx(0.75, abs=0.03)
    assert [one.commands(number) for number in range(50)] == [
        again.commands(number) for number in range(50)
    ]


def test_equal_domains_take_turns() -> None:
    letters = Letters(Mix(domains=read_domains("3")), "one")
    found = [recipients(letters, number)[0].partition("@")[2] for number in range(6)]
    assert found == [f"d{number % 3}.example" for number in range(6)]


@pytest.mark.parametrize("size", [300, 4096, 100_000])
def test_a_message_has_its_size_and_a_sink_knows_it_again(size: int) -> None:
    letters = Letters(Mix(((size, 1.0),)), "r1")
    wire = letters.content(7)
    assert wire.endswith(b"\r\n.\r\n")
    content = unstuffed(wire[:-3])
    assert size <= len(content) <= size + 80
    known = known_by(b"Received: by us\r\n" + content)
    assert (known.identity, known.is_whole) == ("<7.r1@source.example>", True)
    assert known.digest == hashlib.sha256(content.partition(b"\r\n\r\n")[2]).digest()
    assert not known_by(content.replace(b"fox", b"dog", 1)).is_whole
    assert known_by(letters.content(8)).identity != known.identity


def test_each_message_has_recipients_of_its_own() -> None:
    letters = Letters(Mix(domains=read_domains("2"), recipients=3), "one")
    found = [one for number in range(4) for one in recipients(letters, number)]
    assert len(set(found)) == 12
    assert found[:3] == ["r0@d0.example", "r1@d1.example", "r2@d0.example"]


def test_a_mix_comes_back_from_json() -> None:
    mix = Mix(read_sizes("2K:50,1M"), read_domains("a.example:3,b.example"), 5)
    assert Mix.of(json.loads(json.dumps(mix._asdict()))) == mix
