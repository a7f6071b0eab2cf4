"""Settings: what people write, where from, and what they are told when it is wrong."""

import ipaddress
import re
import typing

import pytest

from gwrelay.config import SECTIONS, TABLE, Settings, admin_path
from gwrelay.errors import ConfigError
from gwrelay.given import NOT_GIVEN, load
from gwrelay.mx.denied import DEFAULT_NETWORKS
from gwrelay.notation import Endpoint, FreeSpace, ListenAddress, SmartHost

NEEDED = {"spool": ["/var/spool/gwrelay"]}
FIELDS = {setting.flag: field for field, setting in TABLE.items()}


def load_with(flags=None, environ=None, toml=None):
    file = None if toml is None else ("gw.toml", toml.encode())
    return load(NEEDED | (flags or {}), environ or {}, file, "gw.example")


def value_of(flag, *texts):
    return getattr(load_with({flag: texts}).settings, FIELDS[flag])


def problems_of(flags=None, environ=None, toml=None):
    with pytest.raises(ConfigError) as caught:
        load_with(flags, environ, toml)
    return str(caught.value).splitlines()


# Values as people write them.


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("0s", 0.0),
        ("250ms", 0.25),
        ("300ms", 0.3),
        ("1s", 1.0),
        ("300s", 300.0),
        ("1.5s", 1.5),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1m30s500ms", 90.5),
        ("2d", 172_800.0),
        ("1w", 604_800.0),
        ("3650d", 3650 * 86_400.0),
    ],
)
def test_a_duration_is_a_number_with_a_unit_or_several_from_large_to_small(text, seconds):
    assert value_of("idle-timeout", text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        *("", "5", "300", "5x", "m", "5 m", " 5m", "-5m", "+5m", "5M", "5min", "30m1h", "1m1m"),
        *("1.m", ".5m", "1e3s", "inf", "nan", "0x10s", "٣m", "5m\n", "3651d", "9" * 30 + "s"),
    ],
)
def test_what_is_not_a_duration_is_refused_with_an_example(text):
    (problem,) = problems_of({"idle-timeout": [text]})
    assert problem.startswith(f"--idle-timeout: {text!r} ")
    assert problem.endswith("write a number with its unit, like 5m, 300s, 1h30m, 2d or 250ms, or 0")


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("1", 1),
        ("1000", 1000),
        ("1K", 1024),
        ("64k", 65_536),
        ("50M", 52_428_800),
        ("50m", 52_428_800),
        ("1.5M", 1_572_864),
        ("2G", 2_147_483_648),
    ],
)
def test_a_size_is_bytes_or_a_number_with_a_letter_that_counts_in_1024s(text, size_bytes):
    assert value_of("max-message-size", text) == size_bytes


@pytest.mark.parametrize(
    "text", ["", "0", "50MB", "50MiB", "M", "-1", "1.5", "50 M", "5T", "3G", "2147483649", "1_000"]
)
def test_what_is_not_a_size_or_out_of_its_range_is_refused_with_an_example(text):
    (problem,) = problems_of({"max-message-size": [text]})
    assert problem.startswith(f"--max-message-size: {text!r} ")
    assert problem.endswith("write bytes, or a number with K, M or G (1024s), like 50M")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:2525", ListenAddress("127.0.0.1", 2525)),
        ("127.0.0.1:0", ListenAddress("127.0.0.1", 0)),
        ("[::1]:2525", ListenAddress("::1", 2525)),
        ("[::]:25", ListenAddress("::", 25)),
        ("localhost:65535", ListenAddress("localhost", 65535)),
    ],
)
def test_listen_takes_a_host_and_a_port(text, address):
    assert value_of("listen", text) == (address,)
    assert str(address) == text


@pytest.mark.parametrize("text", ["tls:127.0.0.1:4650", "tls:[::1]:0", "127.0.0.1:465"])
def test_tls_or_port_465_before_an_address_wants_tls_from_the_first_byte(text):
    files = {"tls-cert": ["c.pem"], "tls-key": ["k.pem"]}
    [address] = load_with(files | {"listen": [text]}).settings.listen
    assert address.implicit_tls
    assert str(address) == "tls:" + text.removeprefix("tls:")
    assert problems_of({"listen": [text]}) == [
        f"--listen: {address} is for TLS alone, and there is no certificate; name it with "
        "--tls-cert and --tls-key"
    ]


@pytest.mark.parametrize(("given", "other"), [("tls-cert", "tls-key"), ("tls-key", "tls-cert")])
def test_a_certificate_and_its_key_are_given_together(given, other):
    complaint = f"--{given}: is nothing without --{other}; give both, or none"
    assert problems_of({given: ["file.pem"]}) == [complaint]


@pytest.mark.parametrize("text", ["pm@here.example", "a.b+c=d@x-y.example", "root@localhost"])
def test_the_postmaster_has_an_address(text):
    assert value_of("notify-postmaster", text) == text


@pytest.mark.parametrize(
    "text",
    [
        *(
            "pm",
            "@x.example",
            "pm@",
            "a b@x.example",
            "<pm@x.example>",
            "a@b@x.example",
            "a..b@x.y",
        ),
        *(".a@x.y", "a@x..y", "a\n@x.y", "ä@x.example", "a@[192.0.2.1]", "a" * 65 + "@x.example"),
    ],
)
def test_what_is_no_address_is_refused_with_an_example(text):
    (problem,) = problems_of({"notify-postmaster": [text]})
    assert problem.startswith(f"--notify-postmaster: {text!r} is not an address")
    assert problem.endswith("; write an address, like postmaster@example.com")


def test_one_address_cannot_be_with_tls_and_without():
    files = {"tls-cert": ["c.pem"], "tls-key": ["k.pem"]}
    [problem] = problems_of(files | {"listen": ["tls:127.0.0.1:25,127.0.0.1:25"]})
    assert "127.0.0.1:25 is there twice" in problem


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("127.0.0.1", "has no port"),
        ("2525", "has no port"),
        (":2525", "has no host"),
        ("127.0.0.1:", "is not a host with a port"),
        ("127.0.0.1:smtp", "is not a host with a port"),
        ("127.0.0.1:65536", "has a port outside 0..65535"),
        ("127.0.0.1:-1", "is not a host with a port"),
        ("::1:2525", "is not a host with a port"),
        ("::1", "is not a host with a port"),
        ("[::1]", "has no port"),
        ("[127.0.0.1]:2525", "has something other than an IPv6 address in its brackets"),
        ("[host]:2525", "has something other than an IPv6 address in its brackets"),
        ("300.0.0.1:2525", "names no host"),
        ("*:2525", "names no host"),
        ("a b:2525", "names no host"),
        ("[fe80::1%\x1b]:25", "has something other than an IPv6 address in its brackets"),
    ],
)
def test_a_bad_listen_address_is_refused_with_an_example(text, complaint):
    right = "write HOST:PORT, like 127.0.0.1:2525 or [::1]:2525, or tls:HOST:PORT"
    assert problems_of({"listen": [text]}) == [f"--listen: {text!r} {complaint}; {right}"]


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("mx.example", SmartHost("mx.example", 25)),
        ("mx.example:587", SmartHost("mx.example", 587)),
        ("smart_host", SmartHost("smart_host", 25)),
        ("192.0.2.1", SmartHost("192.0.2.1", 25)),
        ("192.0.2.1:2526", SmartHost("192.0.2.1", 2526)),
        ("2001:db8::1", SmartHost("2001:db8::1", 25)),
        ("[2001:db8::1]", SmartHost("2001:db8::1", 25)),
        ("[2001:db8::1]:26", SmartHost("2001:db8::1", 26)),
        ("tls:mx.example", SmartHost("mx.example", 465, True)),
        ("tls:mx.example:4650", SmartHost("mx.example", 4650, True)),
        ("tls:[2001:db8::1]:26", SmartHost("2001:db8::1", 26, True)),
        ("mx.example:465", SmartHost("mx.example", 465, True)),
    ],
)
def test_a_smart_host_is_on_port_25_without_implicit_tls_unless_it_says_otherwise(text, endpoint):
    assert value_of("smarthost", text) == (endpoint,)


@pytest.mark.parametrize(
    "text", ["mx.example:0", "mx.example:99999", "[mx.example]", "mx..example", "tls:", "smtp:mx"]
)
def test_a_bad_smart_host_is_refused_with_an_example(text):
    (problem,) = problems_of({"smarthost": [text]})
    assert problem.startswith(f"--smarthost: {text!r} ")
    assert problem.endswith(
        "write HOST[:PORT], like mx.example:587 or [::1]:25, or tls:HOST[:PORT]"
    )


def test_a_resolver_is_an_address_on_port_53_unless_it_says_otherwise():
    assert value_of("resolver", "192.0.2.1", "[::1]:5353", "::1") == (
        Endpoint("192.0.2.1", 53),
        Endpoint("::1", 5353),
        Endpoint("::1", 53),
    )


def test_a_resolver_with_a_name_is_refused():
    assert problems_of({"resolver": ["dns.example"]}) == [
        "--resolver: 'dns.example' is not an IP address; "
        "write ADDR[:PORT], like 127.0.0.1 or [::1]:5353"
    ]


def test_relay_from_takes_networks_in_commas_or_repeated():
    networks = tuple(map(ipaddress.ip_network, ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7/32"]))
    assert value_of("relay-from", "10.0.0.0/8, 2001:db8::/32", "192.0.2.7") == networks


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("10.1.2.3/8", "has bits set past its prefix (the network is 10.0.0.0/8)"),
        ("10.0.0.0/33", "is not a network"),
        ("example.com", "is not a network"),
        ("", "is empty"),
    ],
)
def test_a_bad_network_is_refused_with_an_example(text, complaint):
    right = "write networks, like 127.0.0.0/8,::1/128"
    assert problems_of({"relay-from": [text]}) == [f"--relay-from: {text!r} {complaint}; {right}"]


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::", "169.254.1.1", "fe80::1"),
        *("224.0.0.1", "239.255.255.255", "ff02::1"),
    ],
)
def test_deny_host_covers_this_host_this_link_and_everybody_by_default(address):
    denied = load_with().settings.deny_host
    assert any(ipaddress.ip_address(address) in network for network in denied)


@pytest.mark.parametrize("address", ["10.0.0.1", "192.168.1.1", "172.16.0.1", "fc00::1", "8.8.8.8"])
def test_deny_host_leaves_private_and_public_addresses_alone_by_default(address):
    denied = load_with().settings.deny_host
    assert not any(ipaddress.ip_address(address) in network for network in denied)


def test_deny_host_is_replaced_by_what_is_given():
    ten = ipaddress.ip_network("10.0.0.0/8")
    assert value_of("deny-host", "10.0.0.0/8", "*.Corp.example.") == (ten, "*.corp.example")


def test_deny_host_keeps_the_default_networks_when_told_to():
    ten = ipaddress.ip_network("10.0.0.0/8")
    assert value_of("deny-host", "default,10.0.0.0/8") == (*DEFAULT_NETWORKS, ten)


def test_deny_host_none_denies_nothing():
    assert value_of("deny-host", "none") == ()


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.*", "*", "a b", "300.1.1.1", "1::2::3"])
def test_what_is_neither_network_nor_name_pattern_is_refused(text):
    (problem,) = problems_of({"deny-host": [text]})
    assert problem.startswith(f"--deny-host: {text!r} ")
    assert problem.endswith("like 10.0.0.0/8 or *.corp.example, or none")


def test_retry_repeats_what_has_a_star():
    assert value_of("retry", "1m,5m*2,1h") == (60.0, 300.0, 300.0, 3600.0)


def test_the_default_retries_are_the_documented_ones():
    minutes = [1, 5, 10, 20, 40, 60, 60, 120, 120, 120, 120, 240]
    assert load_with().settings.retry_delays_s == tuple(60.0 * n for n in minutes)


@pytest.mark.parametrize("text", ["", "1m,,5m", "1m,", "5", "0", "1m*", "1m*0", "1m*1000", "1m*x"])
def test_a_bad_list_of_delays_is_refused_with_an_example(text):
    (problem,) = problems_of({"retry": [text]})
    assert problem.startswith("--retry: ")
    assert problem.endswith("; write delays, like 1m,5m,10m,1h*2,4h")


@pytest.mark.parametrize(
    ("text", "range_s"), [("30s..1h", (30.0, 3600.0)), ("5m", (300.0, 300.0)), ("1s..1s", (1, 1))]
)
def test_mx_bad_time_is_a_range_or_one_value_for_both_ends(text, range_s):
    assert value_of("mx-bad-time", text) == range_s


@pytest.mark.parametrize("text", ["1h..30s", "30s..", "..1h", "30s-1h", "0..1h", "1s..2s..3s"])
def test_a_bad_range_is_refused_with_an_example(text):
    (problem,) = problems_of({"mx-bad-time": [text]})
    assert problem.startswith(f"--mx-bad-time: {text!r} ")
    assert problem.endswith("; write two durations, like 30s..1h, or one")


@pytest.mark.parametrize(
    ("text", "share"), [("15%", 0.15), ("0%", 0.0), ("0", 0.0), ("0.2", 0.2), ("100%", 1.0)]
)
def test_a_share_is_a_percentage_or_a_fraction(text, share):
    assert value_of("jitter", text) == share


@pytest.mark.parametrize("text", ["15", "101%", "-1%", "%", "fifteen", "1.01"])
def test_a_bad_share_is_refused_with_an_example(text):
    (problem,) = problems_of({"jitter": [text]})
    assert problem.startswith(f"--jitter: {text!r} ")
    assert problem.endswith("; write a percentage, like 15%, or its fraction, 0.15")


@pytest.mark.parametrize(
    ("text", "per_s"),
    [
        ("10/s", 10.0),
        ("90/m", 1.5),
        ("1/h", 1 / 3600),
        ("2.5/s", 2.5),
        ("86400/d", 1.0),
        ("none", 0),
    ],
)
def test_a_pace_is_so_many_a_second_minute_hour_or_day(text, per_s):
    assert value_of("site-message-rate", text) == pytest.approx(per_s)


@pytest.mark.parametrize("text", ["10", "0/s", "/s", "10/w", "10 /s", "-1/s", "ten/s", "10/ms"])
def test_what_is_not_a_pace_is_refused_with_an_example(text):
    [problem] = problems_of({"global-message-rate": [text]})
    assert problem.startswith(f"--global-message-rate: {text!r} ")
    assert problem.endswith("write how many a second, like 10/s, or 90/m, 500/h, 2000/d")


def test_a_range_without_a_beginning_is_not_taken_to_begin_at_nothing():
    (problem,) = problems_of({"mx-bad-time": ["..1h"]})
    assert problem.startswith("--mx-bad-time: '..1h' is not a duration;")


def test_free_space_is_a_share_of_the_disk_or_a_size():
    assert value_of("min-free-space", "10%") == FreeSpace(0.1, 0)
    assert value_of("min-free-space", "2G") == FreeSpace(0.0, 2 * 1024**3)
    assert FreeSpace(0.1, 0).needed_bytes(1000) == 100
    assert FreeSpace(0.0, 700).needed_bytes(1000) == 700


@pytest.mark.parametrize(
    ("flag", "text", "problem"),
    [
        ("max-hops", "0", "is outside 1..1000000; write a whole number from 1 to 1000000"),
        ("max-hops", "1.5", "is not a whole number; write a whole number from 1 to 1000000"),
        ("messages-per-connection", "0", "is outside 1..1000000; write a whole number from 1 to "),
        ("smtp-port", "65536", "is outside 1..65535; write a whole number from 1 to 65535"),
        ("cname-limit", "17", "is outside 0..16; write a whole number from 0 to 16"),
        ("nxdomain", "drop", "is not one of the choices; write bounce or defer"),
        ("rset-mode", "on", "is not one of the choices; write auto, always or never"),
        ("source", "mx.example", "is not an IP address; write one of our addresses, like"),
        ("source", "192.0.2.1:25", "is not an IP address; write one of our addresses, like"),
        ("min-data-rate", "0", "is outside 1..1000000; write a whole number"),
        ("log-level", "INFO", "is not one of the choices; write debug, info, warning or error"),
        ("ip-family", "5", "is not one of the choices; write both, 4, 6, prefer4 or prefer6"),
        ("min-free-space", "lots", "is not a size; write a percentage, like 5%, or a size, like"),
        ("dot-timeout", "0", "leaves no time at all; write a number with its unit, like 5m"),
        ("segment-size", "64K", "is outside 1M..1G; write bytes, or a number with K, M or G"),
        ("hostname", "my_box", "is not a host name; give --hostname a full name, like"),
        ("hostname", "192.0.2.1", "is not a host name; give --hostname a full name, like"),
        ("hostname", "a\r\nb", "is not a host name; give --hostname a full name, like"),
        ("hostname", "a" * 64, "is not a host name; give --hostname a full name, like"),
        ("spool", "", "is empty; write a directory, like /var/spool/gwrelay"),
        ("spool", "a\0b", "has unprintable characters; write a directory, like /var/spool/gwrelay"),
        ("log", "", "is empty; write a file name, like /var/log/gwrelay.log"),
        ("events", "a\nb", "has unprintable characters; write a file name, like /var/log/gwrelay"),
    ],
)
def test_a_bad_value_is_one_line_with_its_source_and_what_is_right(flag, text, problem):
    (line,) = problems_of({flag: [text]})
    assert line.startswith(f"--{flag}: {text!r} {problem}")


@pytest.mark.parametrize("text", ["/run/x", "unix:", "tcp:127.0.0.1:25", "unix:a\nb"])
def test_a_control_socket_that_is_no_path_of_one_is_refused(text):
    (line,) = problems_of({"admin": [text]})
    assert line.startswith(f"--admin: {text!r} ")
    assert line.endswith("write unix:PATH, like unix:/run/gwrelay/admin.sock")


@pytest.mark.parametrize(
    ("admin", "path"),
    [
        ("unix:SPOOL/admin.sock", "/var/spool/gw/admin.sock"),
        ("unix:/run/gw.sock", "/run/gw.sock"),
        ("unix:gw.sock", "gw.sock"),
        ("unix:SPOOLS/gw.sock", "SPOOLS/gw.sock"),
    ],
)
def test_the_control_socket_may_be_in_the_spool_wherever_that_is(admin, path):
    settings = load_with({"admin": [admin], "spool": ["/var/spool/gw"]}).settings
    assert admin_path(settings.admin, settings.spool) == path


def test_a_spool_may_be_stood_in_for_where_none_is_needed():
    stands_in = load({}, {}, None, "gw.example", spool=".")
    assert stands_in.settings.spool == "."
    assert stands_in.given["spool"].origin == NOT_GIVEN
    given = load({}, {"GWRELAY_SPOOL": "/s"}, None, "gw.example", spool=".")
    assert given.settings.spool == "/s"
    assert given.given["spool"].origin == "GWRELAY_SPOOL"


@pytest.mark.parametrize("field", TABLE)
def test_every_setting_takes_its_default_as_a_flag_a_variable_and_a_key(field):
    setting = TABLE[field]
    text = {"hostname": "gw.example", "spool": "/s"}.get(setting.flag, setting.default)
    by_flag = load_with({setting.flag: [text]}).settings
    without = {flag: texts for flag, texts in NEEDED.items() if flag != setting.flag}
    by_variable = load(without, {setting.variable: text}, None, "gw.example").settings
    toml = f"{setting.flag} = '{text}'".encode()
    by_key = load(without, {}, ("gw.toml", toml), "gw.example").settings
    assert by_flag == by_variable == by_key


# One table.


def test_the_table_and_settings_have_the_same_fields_in_the_same_order():
    assert (*TABLE, "destinations") == Settings.__struct_fields__


def test_every_field_is_named_after_its_flag_and_ends_in_its_unit():
    for field, setting in TABLE.items():
        plain = field.removesuffix(f"_{setting.kind.unit}") if setting.kind.unit else field
        assert plain != field or not setting.kind.unit, field
        # One exception: "retry" is what people say, "retry_delays_s" what it is.
        assert plain.replace("-", "_").removesuffix("_delays") == setting.flag.replace("-", "_")


def test_no_flag_is_there_twice_and_every_section_is_known():
    assert len({setting.flag for setting in TABLE.values()}) == len(TABLE)
    assert {setting.section for setting in TABLE.values()} == set(SECTIONS)


def test_every_default_has_the_type_its_field_declares():
    settings = load_with().settings
    for field, declared in typing.get_type_hints(Settings).items():
        value = getattr(settings, field)
        assert isinstance(value, typing.get_origin(declared) or declared), field


def test_every_setting_has_a_sentence_of_help():
    for setting in TABLE.values():
        assert re.fullmatch(r"[A-Z].*\.\)?", setting.help), setting.flag


def test_settings_cannot_be_changed():
    with pytest.raises(AttributeError):
        load_with().settings.max_hops = 5


# Where from.


def test_a_flag_beats_a_variable_beats_the_file_beats_the_default():
    flags, environ, toml = {"max-hops": ["4"]}, {"GWRELAY_MAX_HOPS": "3"}, "max-hops = 2"
    cases = [
        (load_with(), 100, "default"),
        (load_with(toml=toml), 2, "gw.toml: max-hops"),
        (load_with(environ=environ, toml=toml), 3, "GWRELAY_MAX_HOPS"),
        (load_with(flags, environ, toml), 4, "--max-hops"),
    ]
    for loaded, value, origin in cases:
        assert loaded.settings.max_hops == value
        assert loaded.given["max-hops"].origin == origin


def test_a_list_from_a_higher_source_replaces_the_lower_one_whole():
    loaded = load_with({"smarthost": ["a"]}, {"GWRELAY_SMARTHOST": "b,c"}, 'smarthost = ["d"]')
    assert loaded.settings.smarthost == (SmartHost("a", 25),)


def test_an_empty_variable_clears_a_list_that_may_be_empty():
    loaded = load_with(environ={"GWRELAY_SMARTHOST": ""}, toml='smarthost = ["d"]')
    assert loaded.settings.smarthost == ()


def test_hostname_is_the_machines_own_unless_given():
    assert load_with().settings.hostname == "gw.example"
    assert load_with().given["hostname"].origin == "the machine's own name"
    assert load_with({"hostname": ["mx.example"]}).settings.hostname == "mx.example"


def test_a_machine_whose_name_is_no_host_name_must_be_told_one():
    with pytest.raises(ConfigError) as caught:
        load(NEEDED, {}, None, "my_box")
    assert str(caught.value) == (
        "the machine's own name: 'my_box' is not a host name; "
        "give --hostname a full name, like gw.example.com"
    )


def test_the_spool_must_be_given():
    with pytest.raises(ConfigError) as caught:
        load({}, {}, None, "gw.example")
    assert str(caught.value) == (
        "--spool: not given; write --spool DIR, GWRELAY_SPOOL=DIR, "
        'or spool = "DIR" in the --config file'
    )


def test_the_file_takes_text_numbers_and_lists():
    toml = """
        max-message-size = 1000
        mx-refresh-ahead = 0.5
        client-timeout = "5m"
        idle-timeout = 0
        smarthost = ["a:26", "b"]
        relay-from = "10.0.0.0/8,::1"
    """
    settings = load_with(toml=toml).settings
    assert settings.max_message_size_bytes == 1000
    assert settings.mx_refresh_ahead_share == 0.5
    assert settings.client_timeout_s == 300.0
    assert settings.idle_timeout_s == 0.0
    assert settings.smarthost == (SmartHost("a", 26), SmartHost("b", 25))
    assert len(settings.relay_from) == 2


@pytest.mark.parametrize(
    ("toml", "problem"),
    [
        ("client-timeout = 300", "gw.toml: client-timeout: '300' is not a duration; write a num"),
        ("max-hops = true", "gw.toml: max-hops: neither text nor a number; write a whole"),
        ("max-hops = [1]", "gw.toml: max-hops: neither text nor a number; write a whole"),
        ("smarthost = [['a']]", "gw.toml: smarthost: neither text nor a number; write HOST"),
        ("max-hops = 2020-01-01", "gw.toml: max-hops: neither text nor a number; write a"),
        ("listen = []", "gw.toml: listen: the list is empty; write HOST:PORT, like 127"),
        ("retry = []", "gw.toml: retry: the list is empty; write delays, like 1m"),
        ("max-hop = 5", "gw.toml: unknown key 'max-hop'; did you mean max-hops?"),
        ("max_hops = 5", "gw.toml: unknown key 'max_hops'; did you mean max-hops?"),
        ("colour = 'red'", "gw.toml: unknown key 'colour'"),
        ("[pool]\nconcurrency = 5", "gw.toml: unknown key 'pool'; did you mean spool?"),
        ("max-hops 5", "gw.toml: not a TOML file: "),
        ("max-hops = 1\nmax-hops = 2", "gw.toml: not a TOML file: "),
    ],
)
def test_a_mistake_in_the_file_is_one_line_with_the_files_name(toml, problem):
    (line,) = problems_of(toml=toml)
    assert line.startswith(problem)


def test_a_file_that_is_not_text_is_refused():
    with pytest.raises(ConfigError, match=r"^gw.toml: not a TOML file: 'utf-8' codec"):
        load(NEEDED, {}, ("gw.toml", b"\xff"), "gw.example")


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        (
            {"GWRELAY_MAX_HOP": "5"},
            "'GWRELAY_MAX_HOP': unknown variable; did you mean GWRELAY_MAX_HOPS?",
        ),
        (
            {"GWRELAY_CONFG": "x"},
            "'GWRELAY_CONFG': unknown variable; did you mean GWRELAY_CONFIG?",
        ),
        (
            {"GWRELAY_MAX_HOPS": "many"},
            "GWRELAY_MAX_HOPS: 'many' is not a whole number; "
            "write a whole number from 1 to 1000000",
        ),
    ],
)
def test_a_mistake_in_the_environment_is_one_line_with_the_variables_name(environ, problem):
    assert problems_of(environ=environ) == [problem]


def test_variables_of_the_tools_and_of_others_are_left_alone():
    environ = {"GWRELAY_TEST_X": "1", "GWRELAY_BENCH_X": "1", "GWRELAY_CONFIG": "f", "HOME": "/"}
    assert load_with(environ=environ) == load_with()


def test_every_problem_is_told_at_once():
    problems = problems_of(
        {"max-hops": ["x"]}, {"GWRELAY_RETRY": "y", "GWRELAY_NOPE": ""}, "log-level = 'loud'"
    )
    sources = [problem.split(":")[0] for problem in problems]
    assert sources == ["'GWRELAY_NOPE'", "--max-hops", "GWRELAY_RETRY", "gw.toml"]


# Right alone, wrong together.


def test_the_same_address_cannot_be_listened_on_twice():
    assert problems_of({"listen": ["127.0.0.1:25,[::1]:25", "127.0.0.1:25"]}) == [
        "--listen: 127.0.0.1:25 is there twice; give it once"
    ]


def test_any_number_of_free_ports_can_be_listened_on():
    assert len(value_of("listen", "127.0.0.1:0", "127.0.0.1:0")) == 2


def test_a_smart_host_cannot_be_this_gateway():
    (problem,) = problems_of({"listen": ["127.0.0.1:25"], "smarthost": ["127.0.0.1"]})
    assert problem.startswith("--smarthost: 127.0.0.1:25 is where this gateway listens")


def test_the_smallest_ttl_cannot_be_above_the_largest():
    assert problems_of({"mx-ttl-min": ["2d"]}) == [
        "--mx-ttl-min: '2d' is more than the mx-ttl-max of '1d' (default); "
        "write a smaller mx-ttl-min or a larger mx-ttl-max"
    ]


def test_nobody_can_be_warned_of_mail_that_is_given_up():
    assert problems_of({"delay-warning": ["1h"], "lifetime": ["60m"]}) == [
        "--delay-warning: '1h' is not less than the lifetime of '60m' (--lifetime); "
        "write a shorter delay-warning, or 0 for none"
    ]
    assert value_of("delay-warning", "4h") == 14_400
    assert value_of("lifetime", "0") == 0, "there is no warning to come too late"


def test_events_and_log_cannot_share_a_file():
    assert problems_of({"events": ["x"], "log": ["x"]}) == [
        "--events: the log goes to the same file; name another one"
    ]
