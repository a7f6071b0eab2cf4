"""Real mail and name servers, each with its own files and ports, all on loopback.

Every class is a context manager: entering starts the server and waits until it answers,
leaving ends it.  None of them reads or writes the machine's own configuration of that server.
Their directories must be open to other users, since servers give up being root: pytest's are not.
"""

import contextlib
import os
import pwd
import re
import shutil
import signal
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import dns.exception
import dns.message
import dns.query
import pytest

from gwrelay_bench.postfix import PRIVATE, SERVICES
from support.processes import Program, accepts, free_port, need_root, program, run


class _Server(ABC):
    """What the servers share: a start that waits until they answer, and an end."""

    running: Program | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    @abstractmethod
    def start(self) -> None:
        """Start it, and return once it is ready."""

    def stop(self) -> None:
        if self.running is not None:
            self.running.stop()


class Postfix(_Server):
    """Takes mail from loopback at `port` and hands all of it to `relay_host` ("host:port")."""

    #: Seconds instead of minutes, loopback only, no DNS, no TLS, and no local delivery.
    SETTINGS: Mapping[str, str] = {
        **PRIVATE,
        "local_header_rewrite_clients": "permit_inet_interfaces",
        "maillog_file": "/dev/stdout",
        "smtpd_peername_lookup": "no",
        "smtpd_recipient_restrictions": "permit_mynetworks,reject",
        "smtp_dns_support_level": "disabled",
        "smtp_host_lookup": "native",
        "smtp_tls_security_level": "none",
        "default_destination_concurrency_limit": "20",
        "initial_destination_concurrency": "20",
        "in_flow_delay": "0",
        "minimal_backoff_time": "1s",
        "maximal_backoff_time": "2s",
        "queue_run_delay": "1s",
        "smtpd_client_connection_count_limit": "0",
    }
    #: What local programs hand in is looked for each second.
    SERVICES = SERVICES.replace("60 1 pickup", "1 1 pickup")

    def __init__(self, directory: Path, relay_host: str, settings: Mapping[str, str] = {}) -> None:
        self.program = program("postfix")
        need_root("Postfix starts as root and gives its daemons the user postfix")
        self.directory = directory
        self.port = free_port()
        host, _, port = relay_host.rpartition(":")
        self.settings = {
            **self.SETTINGS,
            "relayhost": f"[{host}]:{port}",
            "queue_directory": str(directory / "queue"),
            "data_directory": str(directory / "state"),
            **settings,
        }

    @property
    def spec(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def configuration(self) -> Path:
        return self.directory / "configuration"

    def start(self) -> None:
        for name in ("configuration", "queue", "state"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        shutil.chown(self.directory / "state", "postfix")
        lines = [f"{key} = {value}\n" for key, value in self.settings.items()]
        (self.configuration / "main.cf").write_text("".join(lines))
        (self.configuration / "master.cf").write_text(self.SERVICES.format(port=self.port))
        self.running = Program(
            [self.program, "-c", str(self.configuration), "start-fg"],
            self.directory / "postfix.log",
        )
        self.running.await_ready(lambda: accepts("127.0.0.1", self.port))

    def stop(self) -> None:
        if self.running is None or self.running.popen.poll() is not None:
            return
        # The master leaves our process group; its children go when it goes, and so does the
        # script that started it, which therefore gets no more than a harmless signal.
        pid_file = self.directory / "queue/pid/master.pid"
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int(pid_file.read_text()), signal.SIGTERM)
        self.running.stop(signal.SIGCONT)
        pid_file.unlink(missing_ok=True)

    def sendmail(self, reverse_path: str, recipients: Sequence[str], content: bytes) -> None:
        """Hand in a message as local programs do."""
        command = [program("sendmail"), "-C", str(self.configuration), "-i", "-f", reverse_path]
        run([*command, "--", *recipients], content=content)

    def queue(self) -> str:
        """What `mailq` says."""
        return run([program("mailq"), "-C", str(self.configuration)])

    def sent(self) -> int:
        """Recipients its smtp client delivered, as its log counts them."""
        return self.running.output.count("status=sent")


class Dovecot(_Server):
    """Judges passwords for a Postfix, over a socket in that one's queue.

    It knows one `user`, by the mechanisms named.
    """

    CONFIGURATION = """\
base_dir = {directory}/run
state_dir = {directory}/state
log_path = /dev/stderr
protocols =
ssl = no
disable_plaintext_auth = no
default_internal_user = dovecot
default_login_user = dovenull
auth_mechanisms = {mechanisms}
auth_failure_delay = 0
passdb {{
  driver = passwd-file
  args = scheme=PLAIN username_format=%u {directory}/users
}}
userdb {{
  driver = static
  args = uid=dovecot gid=dovecot home=/nonexistent
}}
service auth {{
  unix_listener {socket} {{
    mode = 0660
    user = postfix
    group = postfix
  }}
}}
"""

    def __init__(
        self, directory: Path, socket: Path, mechanisms: str, user: tuple[str, str]
    ) -> None:
        self.program = program("dovecot")
        need_root("Dovecot gives its processes users of its own")
        self.directory, self.socket = directory, socket
        self.mechanisms, self.user = mechanisms, user

    #: What a Postfix is to be set to, beside the path of the socket.
    SMTPD: Mapping[str, str] = {
        "smtpd_sasl_type": "dovecot",
        "smtpd_sasl_auth_enable": "yes",
        "smtpd_sasl_path": "private/auth",
        "smtpd_sasl_security_options": "noanonymous",
        "smtpd_tls_auth_only": "yes",
        "smtpd_recipient_restrictions": "permit_sasl_authenticated,reject",
    }

    def start(self) -> None:
        for directory in (self.directory, self.socket.parent):
            directory.mkdir(parents=True, exist_ok=True)
        shutil.chown(self.socket.parent, "postfix")
        users = self.directory / "users"
        users.write_text(":".join(self.user) + "\n")
        shutil.chown(users, "dovecot")
        configuration = self.directory / "dovecot.conf"
        configuration.write_text(
            self.CONFIGURATION.format(
                directory=self.directory, socket=self.socket, mechanisms=self.mechanisms
            )
        )
        self.running = Program(
            [self.program, "-F", "-c", str(configuration)], self.directory / "dovecot.log"
        )
        self.running.await_ready(self.socket.exists)


class Exim(_Server):
    """Takes mail from loopback at `port` and hands it to `relay_host` ("host:port").

    Knows no gone@, greylists later@, and takes no more than `max_message_size`.
    Debian's Exim and Postfix cannot both be installed, so this one may be an unpacked package:
    GWRELAY_TEST_EXIM names the directory it was unpacked in (see .ci/run).
    """

    #: Compiled into Debian's Exim, which will not start where there is no such user.
    USER = "Debian-exim"
    CONFIGURATION = """\
primary_hostname = exim.example
exim_user = {user}
exim_group = {group}
exim_path = {program}
spool_directory = {directory}/spool
log_file_path = {directory}/exim-%slog
pid_file_path = {directory}/exim.pid
keep_environment =
deliver_drop_privilege = true
message_logs = false
daemon_smtp_ports = {port}
local_interfaces = 127.0.0.1
host_lookup =
rfc1413_hosts =
disable_ipv6 = true
{tls}
accept_8bitmime = true
acl_smtp_rcpt = check_rcpt
acl_smtp_data = accept
message_size_limit = {max_message_size}
smtp_accept_max = 200
smtp_accept_max_per_host = 0
recipients_max = 0
queue_run_max = 5
never_users =

begin acl
check_rcpt:
{rcpt_acl}
  deny local_parts = gone
       message = no such mailbox
  defer local_parts = later
        message = greylisted
  accept

begin routers
onward:
  driver = manualroute
  route_list = * {relay_host} byname
  host_find_failed = defer
  transport = onward
  self = send

begin transports
onward:
  driver = smtp
  port = {relay_port}
  allow_localhost = true
  hosts_try_fastopen =

begin retry
* * F,1h,2s
"""

    def __init__(
        self,
        directory: Path,
        relay_host: str,
        certificate: tuple[Path, Path] | None = None,
        max_message_size: str = "50M",
        rcpt_acl: str = "",
    ) -> None:
        """With a `certificate` and its key (files that anybody may read) it offers STARTTLS.

        `rcpt_acl` is what RCPT is judged by before all else, as in Exim's own configuration.
        """
        self.program = self._find()
        self.max_message_size = max_message_size
        self.rcpt_acl = rcpt_acl
        need_root("Exim gives its daemons its own user")
        self.directory = directory
        self.tls = "tls_advertise_hosts ="
        if certificate:
            self.tls += " *\ntls_certificate = {}\ntls_privatekey = {}".format(*certificate)
        self.port = free_port()
        self.relay_host, _, self.relay_port = relay_host.rpartition(":")

    @staticmethod
    def _find() -> str:
        prefix = os.environ.get("GWRELAY_TEST_EXIM")
        path = f"{prefix}/usr/sbin" if prefix else "/usr/sbin:/usr/local/sbin"
        found = shutil.which("exim4", path=path)
        if found is None:
            pytest.skip(
                "exim4 is not there: apt-get install --no-install-recommends exim4-daemon-light;"
                " or beside Postfix: apt-get install --no-install-recommends libidn12"
                " libgnutls-dane0 libnsl2 libpcre2-8-0 libdb5.3 && apt-get download"
                " exim4-daemon-light && dpkg -x exim4-daemon-light_*.deb DIR, GWRELAY_TEST_EXIM=DIR"
            )
        return found

    @property
    def spec(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        (self.directory / "spool").mkdir(parents=True, exist_ok=True)
        prelude, user = self._with_user()
        configuration = self.directory / "exim.conf"
        configuration.write_text(
            self.CONFIGURATION.format(
                user=user.pw_uid,
                group=user.pw_gid,
                program=self.program,
                tls=self.tls,
                directory=self.directory,
                port=self.port,
                relay_host=self.relay_host,
                relay_port=self.relay_port,
                max_message_size=self.max_message_size,
                rcpt_acl=self.rcpt_acl,
            )
        )
        for path in (self.directory, self.directory / "spool"):
            os.chown(path, user.pw_uid, user.pw_gid)
        command = [*prelude, self.program, "-C", str(configuration), "-bdf", "-q1s"]
        self.running = Program(command, self.directory / "exim.out")
        self.running.await_ready(lambda: accepts("127.0.0.1", self.port))

    def _with_user(self) -> tuple[list[str], pwd.struct_passwd]:
        """What to put before the command so that the user Exim was compiled for exists.

        An unpacked package has made no user: this Exim then runs in a mount namespace whose
        /etc/passwd calls the user mail by that name too; the machine's stays as it is.
        """
        try:
            return [], pwd.getpwnam(self.USER)
        except KeyError:
            mail = pwd.getpwnam("mail")
        write_users(self.directory, {self.USER: (mail.pw_uid, mail.pw_gid)})
        script = (
            'mount --bind "$0/passwd" /etc/passwd && mount --bind "$0/group" /etc/group'
            ' && exec "$@"'
        )
        return ["unshare", "--mount", "sh", "-c", script, str(self.directory)], mail


def write_users(directory: Path, users: Mapping[str, tuple[int, int]]) -> None:
    """Files passwd and group in `directory`: the machine's, and `users` (name: uid and gid)."""
    entries = {
        "passwd": [f"{u}:x:{uid}:{gid}::/:/usr/sbin/nologin\n" for u, (uid, gid) in users.items()],
        "group": [f"{u}:x:{gid}:\n" for u, (_, gid) in users.items()],
    }
    for name, lines in entries.items():
        (directory / name).write_text(Path("/etc", name).read_text() + "".join(lines))
        (directory / name).chmod(0o644)


class OpenSMTPD(_Server):
    """Takes mail for dest.example from loopback at `port`, and hands it to `relay_host`.

    Greylists later@dest.example, takes no more than `max_message_size`, and knows no PIPELINING.
    It conflicts with Postfix, and its paths are compiled in: GWRELAY_TEST_OPENSMTPD names the
    directory it was unpacked in (see .ci/run), and it runs in a mount namespace of its own.
    """

    CONFIGURATION = """\
smtp max-message-size {max_message_size}
filter "grey" phase rcpt-to match rcpt-to {{ "later@dest.example" }} reject "450 4.2.0 greylisted"
listen on 127.0.0.1 port {port} filter "grey" hostname opensmtpd.example
action "onward" relay host smtp://{relay_host}
match from any for domain {{ "dest.example" }} action "onward"
"""
    SCRIPT = """\
set -e
for name in passwd group resolv.conf; do mount --bind "$0/$name" /etc/$name; done
for at in /var/spool /usr/libexec /run /var/lib; do mount -t tmpfs tmpfs $at; done
mkdir -m 711 /var/spool/smtpd
mkdir -p -m 711 /var/lib/opensmtpd/empty /usr/libexec/opensmtpd
mount --bind "$1/usr/libexec/opensmtpd" /usr/libexec/opensmtpd
exec "$1/usr/sbin/smtpd" -d -f "$0/smtpd.conf"
"""

    def __init__(self, directory: Path, relay_host: str, max_message_size: str = "35M") -> None:
        self.prefix = os.environ.get("GWRELAY_TEST_OPENSMTPD", "")
        if not shutil.which("smtpd", path=f"{self.prefix}/usr/sbin" if self.prefix else ""):
            pytest.skip(
                "OpenSMTPD is not unpacked: apt-get install --no-install-recommends"
                " libevent-2.1-7 libdb5.3 libpam0g && apt-get download opensmtpd &&"
                " dpkg -x opensmtpd_*.deb DIR, GWRELAY_TEST_OPENSMTPD=DIR"
            )
        need_root("OpenSMTPD gives its processes users of their own")
        self.directory, self.relay_host = directory, relay_host
        self.max_message_size = max_message_size
        self.port = free_port()

    @property
    def spec(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        configuration = self.CONFIGURATION.format(
            port=self.port, relay_host=self.relay_host, max_message_size=self.max_message_size
        )
        (self.directory / "smtpd.conf").write_text(configuration)
        (self.directory / "resolv.conf").write_text("lookup file\nnameserver 127.0.0.1\n")
        mail, nobody = pwd.getpwnam("mail"), pwd.getpwnam("news")
        users = {"opensmtpd": mail, "opensmtpq": nobody}
        write_users(self.directory, {name: (u.pw_uid, u.pw_gid) for name, u in users.items()})
        command = ["unshare", "--mount", "sh", "-c", self.SCRIPT, str(self.directory), self.prefix]
        self.running = Program(command, self.directory / "smtpd.log")
        self.running.await_ready(lambda: accepts("127.0.0.1", self.port))


class SmtpSink(_Server):
    """Postfix's smtp-sink: takes everything, one file for each transaction."""

    def __init__(self, directory: Path, options: Sequence[str] = ()) -> None:
        self.program = program("smtp-sink")
        self.directory = directory
        self.options = list(options)
        self.port = free_port()

    @property
    def spec(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        messages = self.directory / "messages"
        messages.mkdir(parents=True)
        user = []
        if os.geteuid() == 0:
            messages.chmod(0o777)
            user = ["-u", "nobody"]
        dump = ["-d", f"{messages}/%s."]
        self.running = Program(
            [self.program, *user, *dump, *self.options, self.spec, "1024"],
            self.directory / "smtp-sink.log",
        )
        self.running.await_ready(lambda: accepts("127.0.0.1", self.port))

    def recipients(self) -> Counter[str]:
        """How often each recipient arrived."""
        arrived: Counter[str] = Counter()
        for path in (self.directory / "messages").iterdir():
            head = path.read_bytes().partition(b"\n\n")[0]
            arrived.update(m.decode() for m in re.findall(rb"X-Rcpt-Args: <([^>]*)>", head))
        return arrived


class Knot(_Server):
    """An authority for the zone `origin` ("test."): `records` are lines of its zone file.

    Follows a CNAME as far as its zone reaches, and answers REFUSED for everything else.
    """

    CONFIGURATION = """server:
  rundir: "{directory}"
  listen: 127.0.0.1@{port}
  user: root:root
  udp-workers: 1
  tcp-workers: 1
  background-workers: 1
database:
  storage: "{directory}/database"
log:
- target: stdout
  any: notice
zone:
- domain: {origin}
  storage: "{directory}"
  file: zone
"""
    SOA = "@ 3600 IN SOA ns.{origin} admin.{origin} 1 1800 900 604800 {negative_ttl_s}\n"

    def __init__(self, directory: Path, origin: str, records: Sequence[str]) -> None:
        self.program = program("knotd")
        self.directory, self.origin, self.records = directory, origin, records
        self.port = free_port(udp=True)

    @property
    def spec(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        (self.directory / "database").mkdir(parents=True, exist_ok=True)
        names = {"directory": self.directory, "port": self.port, "origin": self.origin}
        user = pwd.getpwuid(os.geteuid()).pw_name
        text = self.CONFIGURATION.format(**names).replace("root:root", user)
        (self.directory / "knot.conf").write_text(text)
        soa = self.SOA.format(origin=self.origin, negative_ttl_s=120)
        lines = [f"$ORIGIN {self.origin}\n", soa, f"@ 3600 IN NS ns.{self.origin}\n"]
        lines += [f"{record}\n" for record in self.records]
        (self.directory / "zone").write_text("".join(lines))
        command = [self.program, "-c", str(self.directory / "knot.conf")]
        self.running = Program(command, self.directory / "knot.log")
        self.running.await_ready(lambda: answers(self.port))


class Unbound(_Server):
    """Answers from `zone` (lines of a zone file, owner names whole), NXDOMAIN for the rest.

    `stubs` names zones, with final dot, that an authority at a port of loopback is asked about;
    for those in `silent` it never answers.
    """

    CONFIGURATION = """server:
  directory: "{directory}"
  chroot: ""
  username: ""
  pidfile: ""
  use-syslog: no
  do-daemonize: no
  interface: 127.0.0.1@{port}
  do-ip6: no
  access-control: 127.0.0.0/8 allow
  module-config: "iterator"
  num-threads: 1
  do-not-query-localhost: no
  local-zone: "." static
"""

    def __init__(
        self,
        directory: Path,
        zone: Sequence[str] = (),
        *,
        stubs: Mapping[str, int] = {},
        silent: Sequence[str] = (),
    ) -> None:
        self.program = program("unbound")
        self.directory, self.zone = directory, zone
        self.stubs, self.silent = stubs, silent
        self.port = free_port(udp=True)

    @property
    def spec(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        text = self.CONFIGURATION.format(directory=self.directory, port=self.port)
        text += "".join(f"  local-data: '{line}'\n" for line in self.zone)
        text += "".join(f'  local-zone: "{name}" deny\n' for name in self.silent)
        text += "".join(f'  local-zone: "{name}" transparent\n' for name in self.stubs)
        text += "".join(
            f'stub-zone:\n  name: "{name}"\n  stub-addr: 127.0.0.1@{port}\n'
            for name, port in self.stubs.items()
        )
        text += "remote-control:\n  control-enable: no\n"
        (self.directory / "unbound.conf").write_text(text)
        command = [self.program, "-d", "-c", str(self.directory / "unbound.conf")]
        self.running = Program(command, self.directory / "unbound.log")
        self.running.await_ready(lambda: answers(self.port))


class Dnsmasq(_Server):
    """Answers for `exchanges` (domain, preference, host) and `hosts` (name, address).

    NXDOMAIN for the rest of .example, REFUSED for everything else.
    """

    def __init__(
        self,
        directory: Path,
        exchanges: Sequence[tuple[str, int, str]],
        hosts: Sequence[tuple[str, str]],
    ) -> None:
        self.program = program("dnsmasq")
        self.directory = directory
        self.records = [f"--mx-host={domain},{host},{n}" for domain, n, host in exchanges]
        self.records += [f"--host-record={name},{address}" for name, address in hosts]
        self.port = free_port(udp=True)

    @property
    def spec(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        options = ["--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--no-resolv"]
        options += ["--no-hosts", "--local=/example/", "--bind-interfaces", f"--port={self.port}"]
        options += ["--listen-address=127.0.0.1", "--log-facility=-", "--user="]
        self.running = Program(
            [self.program, *options, *self.records], self.directory / "dnsmasq.log"
        )
        self.running.await_ready(lambda: answers(self.port))


def answers(port: int) -> bool:
    """Whether a name server on loopback answers, whatever it says."""
    question = dns.message.make_query("ready.example", "A")
    try:
        dns.query.udp(question, "127.0.0.1", port=port, timeout=0.2)
    except (dns.exception.DNSException, OSError):
        return False
    return True
