"""Every setting of the gateway, once: its name, its unit, its default, its kind.

The fields of `Settings` are the one table.  Flags (cli.py), GWRELAY_* variables, keys of the
TOML file and --help are all read off them; what is chosen among those, given.py says.
"""

import os
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, get_type_hints

import msgspec

from gwrelay.kinds import (
    ADDRESS,
    DELAYS,
    DIRECTORY,
    DURATION,
    DURATION_RANGE,
    FILE,
    FREE_SPACE,
    HOST_RULES,
    HOSTNAME,
    LEVEL,
    LISTEN_ADDRESSES,
    LISTENERS,
    MAILBOX,
    NETWORKS,
    PACE,
    RATE,
    RESOLVERS,
    SHARE,
    SMART_HOSTS,
    SOCKET,
    SWITCH,
    TIMEOUT,
    USER,
    Kind,
    choice,
    count,
    count_or_auto,
    size,
)
from gwrelay.notation import (
    Endpoint,
    FreeSpace,
    HostRule,
    ListenAddress,
    Network,
    SmartHost,
)

INTAKE, SPOOL, POOL, SHAPING = "Intake", "Spool", "Pool", "Shaping"
RETRIES, MX, TIMEOUTS, PROCESS = "Retries", "DNS and MX", "Timeouts", "Logs and process"
TLS = "TLS and AUTH"
SECTIONS = (INTAKE, SPOOL, POOL, SHAPING, RETRIES, MX, TLS, TIMEOUTS, PROCESS)

#: The ids of messages are shared out among this many.
MOST_WORKERS = 64


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
