"""Every setting of the gateway, once: its name, its unit, its default, its check.

The fields of `Settings` are the one table.  Flags (cli.py), GWRELAY_* variables, keys of the
TOML file and --help are all read off them.  A flag beats a variable beats the file beats the
default.  No I/O here: the caller brings the flags, the environment and the bytes of the file.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, get_type_hints

import msgspec

from gwrelay.errors import ConfigError
from gwrelay.notation import (
    Endpoint,
    FreeSpace,
    HostRule,
    ListenAddress,
    Network,
    SmartHost,
    read_address,
    read_delays,
    read_destination,
    read_duration,
    read_duration_range,
    read_free_space,
    read_host_rules,
    read_hostname,
    read_listen_address,
    read_listener,
    read_mailbox,
    read_network,
    read_pace,
    read_path,
    read_rate,
    read_resolver,
    read_share,
    read_size,
    read_smart_host,
    read_socket,
    read_switch,
    read_timeout,
)

INTAKE, SPOOL, POOL, SHAPING = "Intake", "Spool", "Pool", "Shaping"
RETRIES, MX, TIMEOUTS, PROCESS = "Retries", "DNS and MX", "Timeouts", "Logs and process"
TLS = "TLS and AUTH"
SECTIONS = (INTAKE, SPOOL, POOL, SHAPING, RETRIES, MX, TLS, TIMEOUTS, PROCESS)

#: Variables of these names belong to the tests and the benches, not to the gateway.
RESERVED_VARIABLES = ("GWRELAY_TEST_", "GWRELAY_BENCH_")
CONFIG_VARIABLE = "GWRELAY_CONFIG"
#: The ids of messages are shared out among this many.
MOST_WORKERS = 64
#: Origin of a value that only stands in.
NOT_GIVEN = "not given"


class Kind(NamedTuple):
    """A kind of value: how --help shows it, how it is read, and what is right when it is wrong."""

    metavar: str
    read: Callable[[str], Any]
    #: Ends the message about a bad value.
    right: str
    #: The unit a field's name must end in; "" when the value has none.
    unit: str = ""
    #: A list, in commas or by repetition; `read` turns each part into a tuple of values.
    repeatable: bool = False


def count(lowest: int = 1, highest: int = 1_000_000) -> Kind:
    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,15}", text):
            raise ValueError("is not a whole number")
        if not lowest <= int(text) <= highest:
            raise ValueError(f"is outside {lowest}..{highest}")
        return int(text)

    return Kind("N", read, f"write a whole number from {lowest} to {highest}")


def count_or_auto(highest: int) -> Kind:
    """0 stands for auto."""
    counted = count(1, highest)

    def read(text: str) -> int:
        return 0 if text == "auto" else int(counted.read(text))

    return Kind("auto|N", read, f"{counted.right}, or auto")


def size(lowest: str, highest: str) -> Kind:
    def read(text: str) -> int:
        size_bytes = read_size(text)
        if not read_size(lowest) <= size_bytes <= read_size(highest):
            raise ValueError(f"is outside {lowest}..{highest}")
        return size_bytes

    return Kind("SIZE", read, "write bytes, or a number with K, M or G (1024s), like 50M", "bytes")


def choice(*words: str) -> Kind:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError("is not one of the choices")
        return text

    return Kind("|".join(words), read, f"write {', '.join(words[:-1])} or {words[-1]}")


_RIGHT_DURATION = "write a number with its unit, like 5m, 300s, 1h30m, 2d or 250ms"
DURATION = Kind("DURATION", read_duration, f"{_RIGHT_DURATION}, or 0", "s")
TIMEOUT = Kind("DURATION", read_timeout, _RIGHT_DURATION, "s")
DURATION_RANGE = Kind(
    "FIRST..LONGEST", read_duration_range, "write two durations, like 30s..1h, or one", "s"
)
DELAYS = Kind("DELAY[*N],...", read_delays, "write delays, like 1m,5m,10m,1h*2,4h", "s", True)
RATE = Kind("SIZE/s", read_rate, "write bytes a second, like 50M/s", "bytes_s")
PACE = Kind(
    "N/s|none", read_pace, "write how many a second, like 10/s, or 90/m, 500/h, 2000/d", "per_s"
)
SHARE = Kind("SHARE", read_share, "write a percentage, like 15%, or its fraction, 0.15", "share")
ADDRESS = Kind("ADDR", read_address, "write one of our addresses, like 192.0.2.1 or 2001:db8::1")
MAILBOX = Kind("ADDRESS", read_mailbox, "write an address, like postmaster@example.com")
FREE_SPACE = Kind("SHARE|SIZE", read_free_space, "write a percentage, like 5%, or a size, like 2G")
LISTENERS = Kind(
    "HOST:PORT", read_listener, "write HOST:PORT, like 127.0.0.1:2525 or [::1]:2525", "", True
)
LISTEN_ADDRESSES = Kind(
    "[tls:]HOST:PORT",
    read_listen_address,
    "write HOST:PORT, like 127.0.0.1:2525 or [::1]:2525, or tls:HOST:PORT",
    "",
    True,
)
SMART_HOSTS = Kind(
    "[tls:]HOST[:PORT]",
    read_smart_host,
    "write HOST[:PORT], like mx.example:587 or [::1]:25, or tls:HOST[:PORT]",
    "",
    True,
)
RESOLVERS = Kind(
    "ADDR[:PORT]", read_resolver, "write ADDR[:PORT], like 127.0.0.1 or [::1]:5353", "", True
)
NETWORKS = Kind("CIDR,...", read_network, "write networks, like 127.0.0.0/8,::1/128", "", True)
HOST_RULES = Kind(
    "CIDR|PATTERN|none",
    read_host_rules,
    "write networks or name patterns, like 10.0.0.0/8 or *.corp.example, or none",
    "",
    True,
)
HOSTNAME = Kind("NAME", read_hostname, "give --hostname a full name, like gw.example.com")
DIRECTORY = Kind("DIR", read_path, "write a directory, like /var/spool/gwrelay")
FILE = Kind("FILE", read_path, "write a file name, like /var/log/gwrelay.log")
USER = Kind("NAME", read_path, "write the name of a user, like gwrelay")
SWITCH = Kind("yes|no", read_switch, "write yes or no")
SOCKET = Kind("unix:PATH", read_socket, "write unix:PATH, like unix:/run/gwrelay/admin.sock")
LEVEL = choice("debug", "info", "warning", "error")


class Setting(NamedTuple):
    """What a field of Settings is to the people who set it."""

    section: str
    #: The one spelling: --flag, `flag` in the file, GWRELAY_FLAG.
    flag: str
    kind: Kind
    #: As people write it.  None: it must be given.  "": empty is a value too.
    default: str | None
    help: str
    #: It may be set for one destination too, in a table of the file.
    per_destination: bool = False

    @property
    def variable(self) -> str:
        return "GWRELAY_" + self.flag.upper().replace("-", "_")


# A table, and set as one: two lines a setting.
# fmt: off
class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings, checked.  Names end in their unit: _s seconds, _bytes, _share 0..1."""

    listen: Annotated[tuple[ListenAddress, ...], Setting(
        INTAKE, "listen", LISTEN_ADDRESSES, "127.0.0.1:2525",
        "Accept mail on this address.  With tls: before it, or on port 465, clients speak TLS from "
        "the first byte there.")]
    hostname: Annotated[str, Setting(
        INTAKE, "hostname", HOSTNAME, None, "Our name in banners, EHLO and Received fields.")]
    relay_from: Annotated[tuple[Network, ...], Setting(
        INTAKE, "relay-from", NETWORKS, "127.0.0.0/8,::1/128", "Relay for these clients only.")]
    tls_cert: Annotated[str, Setting(
        INTAKE, "tls-cert", FILE, "",
        "Offer TLS to clients with the certificate in this file, and those that vouch for it.")]
    tls_key: Annotated[str, Setting(
        INTAKE, "tls-key", FILE, "", "The key of --tls-cert, mode 0600.")]
    max_message_size_bytes: Annotated[int, Setting(
        INTAKE, "max-message-size", size("1", "2G"), "50M", "Largest message, said in SIZE.")]
    max_recipients: Annotated[int, Setting(
        INTAKE, "max-recipients", count(), "1000", "Most recipients of one message.")]
    max_hops: Annotated[int, Setting(
        INTAKE, "max-hops", count(), "100", "More Received fields than this are a mail loop.")]
    max_connections: Annotated[int, Setting(
        INTAKE, "max-connections", count(), "1000", "Most clients connected at a time.")]
    client_timeout_s: Annotated[float, Setting(
        INTAKE, "client-timeout", TIMEOUT, "300s", "Hang up on a client silent for this long.")]
    min_free_space: Annotated[FreeSpace, Setting(
        INTAKE, "min-free-space", FREE_SPACE, "5%", "Answer 452 when the disk has less left.")]

    spool: Annotated[str, Setting(
        SPOOL, "spool", DIRECTORY, None, "Where accepted mail is kept; made when missing.")]
    segment_size_bytes: Annotated[int, Setting(
        SPOOL, "segment-size", size("1M", "1G"), "16M", "Size of one file of the log.")]
    compact_ratio_share: Annotated[float, Setting(
        SPOOL, "compact-ratio", SHARE, "0.5",
        "Compact files of the log in which more than this is dead.")]
    compact_rate_bytes_s: Annotated[float, Setting(
        SPOOL, "compact-rate", RATE, "50M/s", "Read no more than this for compaction.")]
    resident_bodies_bytes: Annotated[int, Setting(
        SPOOL, "resident-bodies", size("0", "64G"), "64M",
        "Memory for content until its first attempt, and during others; past it, it is read back.")]

    concurrency: Annotated[int, Setting(
        POOL, "concurrency", count(), "2000", "Most sessions to next hops at a time.")]
    site_concurrency: Annotated[int, Setting(
        POOL, "site-concurrency", count(), "20", "Most sessions to one site at a time.", True)]
    site_concurrency_initial: Annotated[int, Setting(
        POOL, "site-concurrency-initial", count(), "5",
        "As many at first; the site's answers say whether it may have more, or fewer.", True)]
    fair_by: Annotated[str, Setting(
        POOL, "fair-by", choice("sender-domain", "sender", "none"), "sender-domain",
        "Who takes turns where mail waits for a site; with 'none' mail goes in the order it came.")]
    messages_per_connection: Annotated[int, Setting(
        POOL, "messages-per-connection", count(), "100", "Then close it and open another.")]
    recipients_per_message: Annotated[int, Setting(
        POOL, "recipients-per-message", count(), "50", "Most recipients in one transaction.")]
    idle_timeout_s: Annotated[float, Setting(
        POOL, "idle-timeout", DURATION, "10s", "Keep a session without mail open this long.")]
    connection_lifetime_s: Annotated[float, Setting(
        POOL, "connection-lifetime", TIMEOUT, "300s", "Begin nothing new in an older session.")]
    pipelining: Annotated[str, Setting(
        POOL, "pipelining", choice("yes", "no"), "yes",
        "Where it is offered, send what need not wait for a reply without waiting.")]
    rset_mode: Annotated[str, Setting(
        POOL, "rset-mode", choice("auto", "always", "never"), "auto",
        "Say RSET after what left a transaction open, before each further message, or never.")]
    source: Annotated[str, Setting(
        POOL, "source", ADDRESS, "", "Connect to next hops from this address of ours.")]

    rollup: Annotated[str, Setting(
        SHAPING, "rollup", choice("mx", "domain", "off"), "mx",
        "What shares a site, and so its limits: destinations with the same exchanges; none, but "
        "behind smart hosts all; or none, there either.")]
    site_message_rate_per_s: Annotated[float, Setting(
        SHAPING, "site-message-rate", PACE, "none",
        "Most messages to one site, evenly spread.", True)]
    site_connection_rate_per_s: Annotated[float, Setting(
        SHAPING, "site-connection-rate", PACE, "none",
        "Most sessions to begin with one site, evenly spread.", True)]
    global_message_rate_per_s: Annotated[float, Setting(
        SHAPING, "global-message-rate", PACE, "none",
        "Most messages to all sites together, evenly spread; sites take turns.")]

    retry_delays_s: Annotated[tuple[float, ...], Setting(
        RETRIES, "retry", DELAYS, "1m,5m,10m,20m,40m,1h*2,2h*4,4h",
        "Wait this long after the first failed attempt, the second, ...; the last repeats.")]
    jitter_share: Annotated[float, Setting(
        RETRIES, "jitter", SHARE, "15%", "Lengthen or shorten each wait by up to this, at random.")]
    lifetime_s: Annotated[float, Setting(
        RETRIES, "lifetime", DURATION, "5d", "Give up on a message older than this: bounce it.")]
    bounce_lifetime_s: Annotated[float, Setting(
        RETRIES, "bounce-lifetime", DURATION, "1d", "Give up on a bounce older than this.")]
    delay_warning_s: Annotated[float, Setting(
        RETRIES, "delay-warning", DURATION, "0",
        "Tell the sender, once, of a message that waits for longer than this; 0 is never.")]
    honor_retry_hint: Annotated[bool, Setting(
        RETRIES, "honor-retry-hint", SWITCH, "yes",
        "Come again when a host says so, as in 'try again in 300 seconds'.")]
    in_doubt: Annotated[str, Setting(
        RETRIES, "in-doubt", choice("wait", "retry", "hold"), "wait",
        "When the final dot was sent and no answer came: wait, then ask the same host first; "
        "retry as usual; or hold the mail until it is released.")]
    in_doubt_wait_s: Annotated[float, Setting(
        RETRIES, "in-doubt-wait", DURATION, "15m", "Wait this long when in doubt.")]
    nxdomain: Annotated[str, Setting(
        RETRIES, "nxdomain", choice("bounce", "defer"), "bounce",
        "What to do with mail for a domain that does not exist.")]

    resolver: Annotated[tuple[Endpoint, ...], Setting(
        MX, "resolver", RESOLVERS, "",
        "DNS server to ask (port 53 unless given), instead of those in resolv.conf.")]
    dns_timeout_s: Annotated[float, Setting(
        MX, "dns-timeout", TIMEOUT, "5s", "Wait this long for the answer to a question.")]
    dns_concurrency: Annotated[int, Setting(
        MX, "dns-concurrency", count(), "128", "Most questions under way at a time.")]
    mx_cache_size: Annotated[int, Setting(
        MX, "mx-cache-size", count(), "50000", "Most domains to remember.")]
    mx_ttl_min_s: Annotated[float, Setting(
        MX, "mx-ttl-min", DURATION, "60s", "Remember an answer for no less than this.")]
    mx_ttl_max_s: Annotated[float, Setting(
        MX, "mx-ttl-max", TIMEOUT, "1d", "Remember an answer for no more than this.")]
    mx_negative_ttl_s: Annotated[float, Setting(
        MX, "mx-negative-ttl", DURATION, "5m", 'Remember a "no such name" for no more than this.')]
    mx_stale_on_error_s: Annotated[float, Setting(
        MX, "mx-stale-on-error", DURATION, "1h", "While DNS fails, use answers this much too old.")]
    mx_refresh_ahead_share: Annotated[float, Setting(
        MX, "mx-refresh-ahead", SHARE, "0.2", "Ask again when this share of the TTL is left.")]
    mx_bad_time_s: Annotated[tuple[float, float], Setting(
        MX, "mx-bad-time", DURATION_RANGE, "30s..1h",
        "Leave a host that does not answer alone for this long, doubling up to the second.")]
    mx_max_hosts: Annotated[int, Setting(
        MX, "mx-max-hosts", count(), "5", "Most addresses to try in one attempt.")]
    mx_max_sessions: Annotated[int, Setting(
        MX, "mx-max-sessions", count(), "2", "Most hosts to hear a MAIL in one attempt.")]
    smarthost: Annotated[tuple[SmartHost, ...], Setting(
        MX, "smarthost", SMART_HOSTS, "",
        "Send all mail here (port 25 unless given) instead of asking for MX; tried in order.  "
        "With tls: before it, or on port 465, it speaks TLS from the first byte.")]
    smtp_port: Annotated[int, Setting(
        MX, "smtp-port", count(1, 65535), "25", "Port of the exchanges found by MX.")]
    ip_family: Annotated[str, Setting(
        MX, "ip-family", choice("both", "4", "6", "prefer4", "prefer6"), "both",
        "Which of an exchange's addresses to use, and first.")]
    cname_limit: Annotated[int, Setting(
        MX, "cname-limit", count(0, 16), "3", "Most CNAMEs to follow from a domain.")]
    deny_host: Annotated[tuple[HostRule, ...], Setting(
        MX, "deny-host", HOST_RULES, "default",
        "Never send to these when MX or an address literal names them.  'default' is loopback, "
        "unspecified, link-local and multicast; what you give replaces it, so give 'default' "
        "too to add to it.")]

    tls: Annotated[str, Setting(
        TLS, "tls", choice("off", "may", "encrypt", "verify"), "may",
        "Encrypt sessions: never; when offered; or leave the mail waiting; and with a certificate "
        "that is right too.", True)]
    tls_fallback: Annotated[bool, Setting(
        TLS, "tls-fallback", SWITCH, "yes",
        "With 'may': mail that has waited 5m goes in the clear to a host whose TLS is broken.",
        True)]
    tls_min: Annotated[str, Setting(
        TLS, "tls-min", choice("1.2", "1.3"), "1.2",
        "Oldest version of TLS to speak, with next hops and with clients.")]
    tls_ca: Annotated[str, Setting(
        TLS, "tls-ca", FILE, "", "Trust the certificates in this file, not the system's.")]
    tls_broken_ttl_s: Annotated[float, Setting(
        TLS, "tls-broken-ttl", DURATION, "3d", "Remember broken TLS of a host for this long.")]
    smarthost_auth: Annotated[str, Setting(
        TLS, "smarthost-auth", FILE, "",
        "Log in to smart hosts: a file of lines 'HOST[:PORT] USERNAME PASSWORD', mode 0600.")]
    auth_without_tls: Annotated[bool, Setting(
        TLS, "auth-without-tls", SWITCH, "no", "Log in to smart hosts that offer no TLS, too.")]

    connect_timeout_s: Annotated[float, Setting(
        TIMEOUTS, "connect-timeout", TIMEOUT, "30s", "For the TCP connection.")]
    banner_timeout_s: Annotated[float, Setting(
        TIMEOUTS, "banner-timeout", TIMEOUT, "300s",
        "For the greeting; at most 60s while other hosts of the destination are left to ask.")]
    ehlo_timeout_s: Annotated[float, Setting(
        TIMEOUTS, "ehlo-timeout", TIMEOUT, "300s", "For the reply to EHLO, HELO or AUTH.")]
    starttls_timeout_s: Annotated[float, Setting(
        TIMEOUTS, "starttls-timeout", TIMEOUT, "60s", "For STARTTLS and the handshake.")]
    mail_timeout_s: Annotated[float, Setting(
        TIMEOUTS, "mail-timeout", TIMEOUT, "300s", "For the reply to MAIL.")]
    rcpt_timeout_s: Annotated[float, Setting(
        TIMEOUTS, "rcpt-timeout", TIMEOUT, "300s", "For the reply to each RCPT.")]
    data_timeout_s: Annotated[float, Setting(
        TIMEOUTS, "data-timeout", TIMEOUT, "120s", "For the reply to DATA.")]
    block_timeout_s: Annotated[float, Setting(
        TIMEOUTS, "block-timeout", TIMEOUT, "180s", "For each block of content to be taken.")]
    min_data_rate: Annotated[int, Setting(
        TIMEOUTS, "min-data-rate", count(), "500",
        "Bytes a second that content must be taken at, after the time for its first block.")]
    dot_timeout_s: Annotated[float, Setting(
        TIMEOUTS, "dot-timeout", TIMEOUT, "600s",
        "For the reply to the final dot.  Shorter makes duplicates (RFC 5321 4.5.3.2.6).")]
    rset_timeout_s: Annotated[float, Setting(
        TIMEOUTS, "rset-timeout", TIMEOUT, "20s", "For the reply to RSET.")]
    quit_timeout_s: Annotated[float, Setting(
        TIMEOUTS, "quit-timeout", TIMEOUT, "5s",
        "For QUIT to be sent; nobody waits for the reply.")]
    reply_max_bytes: Annotated[int, Setting(
        TIMEOUTS, "reply-max", size("512", "800K"), "64K",
        "Longest reply to read to its end, of 100 lines at most.")]

    log_level: Annotated[str, Setting(
        PROCESS, "log-level", LEVEL, "info", "How much to log.")]
    log: Annotated[str, Setting(
        PROCESS, "log", FILE, "-", "Log to this file; - is standard error.")]
    events: Annotated[str, Setting(
        PROCESS, "events", FILE, "", "Append one line of JSON here for each event.")]
    notify_postmaster: Annotated[str, Setting(
        PROCESS, "notify-postmaster", MAILBOX, "",
        "Write to this address when a next hop breaks the protocol: once an hour for a host, and "
        "20 times for all.")]
    stuck_after_s: Annotated[float, Setting(
        PROCESS, "stuck-after", DURATION, "15m",
        "Raise an alarm about mail that has neither moved for this long nor a time to wait for; "
        "0 for never.")]
    shutdown_max_s: Annotated[float, Setting(
        PROCESS, "shutdown-max", DURATION, "10s", "When stopped, finish within this time.")]
    workers: Annotated[int, Setting(
        PROCESS, "workers", count_or_auto(MOST_WORKERS), "auto",
        "Processes that share the work; auto is one for each core that may be used.  Limits hold "
        "for all of them together, but for --concurrency and --resident-bodies.")]
    stall_max_s: Annotated[float, Setting(
        PROCESS, "stall-max", DURATION, "60s",
        "Kill a worker that has stood still for this long, and start it again; 0 is never.")]
    metrics: Annotated[tuple[Endpoint, ...], Setting(
        PROCESS, "metrics", LISTENERS, "",
        "Tell Prometheus what is counted, at /metrics of this address.")]
    user: Annotated[str, Setting(
        PROCESS, "user", USER, "", "Started by root: open the ports, then go on as this user.")]
    admin: Annotated[str, Setting(
        PROCESS, "admin", SOCKET, "unix:SPOOL/admin.sock",
        "Take commands (gwrelay mx ...) at this socket.  SPOOL is what --spool says.")]

    #: By destination: those of these fields that have another value there.
    destinations: Mapping[str, Mapping[str, Any]] = {}
# fmt: on

    @property
    def endpoints(self) -> list[Endpoint]:
        """Where clients come to, in the order of `listen`."""
        return [address.endpoint for address in self.listen]

    def for_destination(self, field: str, destination: str) -> Any:
        return self.destinations.get(destination, {}).get(field, getattr(self, field))


def admin_path(admin: str, spool: str) -> str:
    """Where the control socket is; `admin` as read_socket() gave it."""
    return (
        os.path.join(spool, admin.removeprefix("SPOOL/")) if admin.startswith("SPOOL/") else admin
    )


#: The table: what each field of Settings is to people, by the field's name, in its order.
TABLE: dict[str, Setting] = {
    field: annotation.__metadata__[0]
    for field, annotation in get_type_hints(Settings, include_extras=True).items()
    if field != "destinations"
}
_FLAGS = {setting.flag: setting for setting in TABLE.values()}
_VARIABLES = {setting.variable: setting.flag for setting in TABLE.values()}
#: The key of the file whose tables hold what is particular to a destination.
DESTINATION = "destination"
_PER_DESTINATION = {s.flag: field for field, s in TABLE.items() if s.per_destination}


class Given(NamedTuple):
    """A value as written, in parts when it is a list, and where it was written."""

    parts: tuple[str, ...]
    origin: str


class Loaded(NamedTuple):
    """`given` is by flag, in the table's order; `destinations` by destination, then by flag."""

    settings: Settings
    given: dict[str, Given]
    destinations: dict[str, dict[str, Given]]


def load(
    flags: Mapping[str, Sequence[str]],
    environ: Mapping[str, str],
    file: tuple[str, bytes] | None,
    machine_name: str,
    *,
    spool: str = "",
) -> Loaded:
    """Choose and check every setting.

    `flags` holds what was given, by flag, without dashes; `file` is the TOML file's name and
    bytes; `machine_name` and `spool` stand in for --hostname and --spool.  Raises ConfigError
    with one line for each problem, naming its source and what would be right.
    """
    problems: list[str] = []
    document = _parse(*file) if file else {}
    name = file[0] if file and file[0].isprintable() else repr(file and file[0])
    tables = document.pop(DESTINATION, {})
    chosen = _defaults(machine_name)
    if spool:
        chosen["spool"] = Given((spool,), NOT_GIVEN)
    chosen |= _from_file(name, document, problems)
    chosen |= _from_environment(environ, problems)
    chosen |= {flag: Given(tuple(texts), f"--{flag}") for flag, texts in flags.items()}
    given: dict[str, Given] = {}
    values = _read_all(TABLE, chosen, given, problems)
    destinations: dict[str, dict[str, Given]] = {}
    values["destinations"] = _read_destinations(name, tables, destinations, problems)
    if not problems:
        settings = Settings(**values)
        problems = _contradictions(settings, given)
    if problems:
        raise ConfigError("\n".join(problems))
    return Loaded(settings, given, destinations)


def _read_all(
    table: Mapping[str, Setting],
    chosen: Mapping[str, Given],
    given: dict[str, Given],
    problems: list[str],
) -> dict[str, Any]:
    """The values by field; fills `given`."""
    values = {}
    for field, setting in table.items():
        try:
            given[setting.flag] = _split(setting, chosen.get(setting.flag))
            values[field] = _read(setting, given[setting.flag])
        except ConfigError as error:
            problems.append(str(error))
    return values


def _defaults(machine_name: str) -> dict[str, Given]:
    defaults = {
        flag: Given((setting.default,), "default")
        for flag, setting in _FLAGS.items()
        if setting.default is not None
    }
    return defaults | {"hostname": Given((machine_name,), "the machine's own name")}


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> dict[str, Given]:
    found = {}
    for name in sorted(environ):
        if not name.startswith("GWRELAY_") or name.startswith(RESERVED_VARIABLES):
            continue
        if name in _VARIABLES:
            found[_VARIABLES[name]] = Given((environ[name],), name)
        elif name != CONFIG_VARIABLE:
            known = (*_VARIABLES, CONFIG_VARIABLE)
            problems.append(f"{name!r}: unknown variable{_nearest(name, known)}")
    return found


def _parse(name: str, content: bytes) -> dict[str, Any]:
    try:
        return tomllib.loads(content.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        name = name if name.isprintable() else repr(name)
        raise ConfigError(
            f"{name}: not a TOML file: {error}; write lines like max-hops = 100"
        ) from None


def _from_file(name: str, document: Mapping[str, Any], problems: list[str]) -> dict[str, Given]:
    found = {}
    for key, value in document.items():
        if key not in _FLAGS:
            nearest = _nearest(key, (*_FLAGS, DESTINATION))
            problems.append(f"{name}: unknown key {key!r}{nearest}")
            continue
        texts = _as_texts(_FLAGS[key].kind, value, f"{name}: {key}", problems)
        if texts is not None:
            found[key] = Given(texts, f"{name}: {key}")
    return found


def _as_texts(kind: Kind, value: Any, origin: str, problems: list[str]) -> tuple[str, ...] | None:
    """What a key of the file has, as people would write it in a flag."""
    values = value if isinstance(value, list) and kind.repeatable else [value]
    if any(isinstance(one, bool) or not isinstance(one, str | int | float) for one in values):
        problems.append(f"{origin}: neither text nor a number; {kind.right}, in quotes")
        return None
    return tuple(str(one) for one in values)


_RIGHT_TABLE = 'write a table like [destination."example.com"]'


def _read_destinations(
    name: str, tables: Any, given: dict[str, dict[str, Given]], problems: list[str]
) -> dict[str, dict[str, Any]]:
    """What the tables [destination."..."] have, by destination and field; fills `given`."""
    if not isinstance(tables, dict):
        problems.append(f"{name}: {DESTINATION}: is not a table; {_RIGHT_TABLE}")
        return {}
    found: dict[str, dict[str, Any]] = {}
    for key, table in tables.items():
        origin = f'{name}: [{DESTINATION}."{key}"]' if key.isprintable() else f"{name}: {key!r}"
        try:
            destination = read_destination(key)
        except ValueError as error:
            problems.append(f"{origin}: {key!r} {error}; {_RIGHT_TABLE}")
            continue
        if not isinstance(table, dict):
            problems.append(f"{origin}: is not a table; {_RIGHT_TABLE}, with its keys below")
        elif destination in found:
            problems.append(f"{origin}: {destination} has a table already; write one of them")
        else:
            given[destination] = {}
            found[destination] = _read_table(origin, table, given[destination], problems)
    return found


def _read_table(
    origin: str, table: Mapping[str, Any], given: dict[str, Given], problems: list[str]
) -> dict[str, Any]:
    chosen = {}
    for key, value in table.items():
        if key in _PER_DESTINATION:
            texts = _as_texts(_FLAGS[key].kind, value, f"{origin} {key}", problems)
            if texts is not None:
                chosen[key] = Given(texts, f"{origin} {key}")
        elif key in _FLAGS:
            allowed = ", ".join(_PER_DESTINATION)
            problems.append(f"{origin}: {key} is for all destinations; one may have {allowed}")
        else:
            nearest = _nearest(key, tuple(_PER_DESTINATION))
            problems.append(f"{origin}: unknown key {key!r}{nearest}")
    rows = {field: TABLE[field] for flag, field in _PER_DESTINATION.items() if flag in chosen}
    return _read_all(rows, chosen, given, problems)


def _nearest(name: str, names: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _split(setting: Setting, given: Given | None) -> Given:
    """Cut a list at its commas.  Raises ConfigError for what must be given and is not."""
    if given is None:
        flag, metavar = setting.flag, setting.kind.metavar
        ways = f'--{flag} {metavar}, {setting.variable}={metavar}, or {flag} = "{metavar}"'
        raise ConfigError(f"--{flag}: not given; write {ways} in the --config file")
    if setting.default == "" and all(not part for part in given.parts):
        return Given((), given.origin)
    if not setting.kind.repeatable:
        return given
    parts = (part.strip() for text in given.parts for part in text.split(","))
    return Given(tuple(parts), given.origin)


def _read(setting: Setting, given: Given) -> Any:
    if not given.parts and setting.default != "":
        raise ConfigError(f"{given.origin}: the list is empty; {setting.kind.right}")
    values = []
    for part in given.parts:
        try:
            if not part:
                raise ValueError("is empty")
            values.append(setting.kind.read(part))
        except ValueError as error:
            right = setting.kind.right
            raise ConfigError(f"{given.origin}: {part!r} {error}; {right}") from None
    if setting.kind.repeatable:
        return tuple(value for several in values for value in several)
    return values[0] if values else ""


def _contradictions(settings: Settings, given: Mapping[str, Given]) -> list[str]:
    """What is wrong though each value alone is right."""
    found = []
    fixed = [endpoint for endpoint in settings.endpoints if endpoint.port]
    for endpoint in sorted(set(fixed)):
        if fixed.count(endpoint) > 1:
            found.append(f"{given['listen'].origin}: {endpoint} is there twice; give it once")
        if any(endpoint == hop[:2] for hop in settings.smarthost):
            found.append(
                f"{given['smarthost'].origin}: {endpoint} is where this gateway listens; "
                "name another next hop, or mail would go round in circles"
            )
    for field, other in (("tls-cert", "tls-key"), ("tls-key", "tls-cert")):
        if given[field].parts and not given[other].parts:
            found.append(f"{given[field].origin}: is nothing without --{other}; give both, or none")
    for address in settings.listen:
        if address.implicit_tls and not settings.tls_cert:
            found.append(
                f"{given['listen'].origin}: {address} is for TLS alone, and there is no "
                "certificate; name it with --tls-cert and --tls-key"
            )
    if settings.mx_ttl_min_s > settings.mx_ttl_max_s:
        low, high = given["mx-ttl-min"], given["mx-ttl-max"]
        found.append(
            f"{low.origin}: {low.parts[0]!r} is more than the mx-ttl-max of {high.parts[0]!r} "
            f"({high.origin}); write a smaller mx-ttl-min or a larger mx-ttl-max"
        )
    if settings.delay_warning_s and settings.delay_warning_s >= settings.lifetime_s:
        warning, end = given["delay-warning"], given["lifetime"]
        found.append(
            f"{warning.origin}: {warning.parts[0]!r} is not less than the lifetime of "
            f"{end.parts[0]!r} ({end.origin}); write a shorter delay-warning, or 0 for none"
        )
    if settings.smarthost_auth and not settings.smarthost:
        found.append(
            f"{given['smarthost-auth'].origin}: there is no smart host to log in to; name it with "
            "--smarthost, or leave this out"
        )
    if settings.events and settings.events == settings.log:
        found.append(f"{given['events'].origin}: the log goes to the same file; name another one")
    return found
