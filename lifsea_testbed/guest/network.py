"""The network of a guest: listening sockets, ssh servers, network cards, local HTTP servers."""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace

from lifsea_testbed.errors import NotJudged, Reason
from lifsea_testbed.guest import kernel_files
from lifsea_testbed.guest.answers import readable
from lifsea_testbed.support.deadline import HARDWARE_SPEED, TimeScale
from lifsea_testbed.support.lines import split_lines
from lifsea_testbed.support.protocols import Shell

#: State 0A is TCP_LISTEN, and an unconnected UDP socket is in 07, TCP_CLOSE (include/net/tcp_states.h).
_LISTEN, _UNCONNECTED = "0A", "07"
_TABLES = kernel_files.SHOW + "for table in tcp tcp6 udp udp6; do show /proc/net/$table ${table%6}; done; :"
_OWNERS = "find /proc/[0-9]*/fd -lname 'socket:*' -printf '%h %l\\n' 2>/dev/null || :"
_PROGRAMS = "grep -H . /proc/[0-9]*/comm 2>/dev/null || :"
# The listeners of the shell's own network namespace, then those of each other, after a process that is in it.
_NAMESPACES = kernel_files.SHOW + """
own=$(readlink /proc/self/ns/net)
seen=" $own "
echo '= self'
show /proc/net/tcp
show /proc/net/tcp6
for process in /proc/[0-9]*; do
    name=$(readlink $process/ns/net 2>/dev/null) || continue
    case $seen in *" $name "*) continue;; esac
    seen="$seen$name "
    echo "= ${process#/proc/}"
    show $process/net/tcp
    show $process/net/tcp6
done
exit 0
"""
# Listening streams of an ssh server's name, such as systemd-ssh-generator(8) makes. proc(5), net/unix: 00010000 stands
# for a socket that accepts connections, 0001 for a stream.
_UNIX = "grep -i ' 00010000 0001 .*ssh' /proc/net/unix 2>/dev/null || :"
#: How long a server may take to greet: on real hardware, and at least, since it may wait on purpose (seconds).
_GREETING, _AT_LEAST = 3.0, 12.0
_ASKING = 60.0
# RFC 4253, 4.2: a server identifies itself by a line that starts with SSH-, and may send other lines before it. A
# multiplexer speaks as soon as the client has identified itself.
_GREET = """
greeting() {{
    enter=
    [ "$1" = self ] || enter="nsenter --net=/proc/$1/ns/net"
    if command -v bash >/dev/null; then
        exec $enter bash -c '
            exec 3<>"/dev/tcp/$0/$1" || exit 0
            printf "SSH-2.0-testbed\\r\\n" >&3
            while [ $((count += 1)) -le 20 ] && IFS= read -r -t {wait} line <&3; do
                case $line in SSH-*) echo "$2 $line"; exit 0;; esac
            done' "$2" "$3" "$4"
    fi
    {{ printf 'SSH-2.0-testbed\\r\\n'; sleep {wait}; }} | $enter curl --silent --max-time {wait} "telnet://$5:$3" \\
        | head -n 20 | sed -n "s/^SSH-/$4 SSH-/p"
}}
command -v bash >/dev/null || command -v curl >/dev/null || exit 127
[ -z "{namespaces}" ] || command -v nsenter >/dev/null || exit 126
probes=
while read -r namespace address port number target; do
    greeting $namespace $address $port $number $target 2>/dev/null </dev/null & probes="$probes $!"
done
waiting() {{
    for probe in $probes; do
        [ ! -d /proc/$probe ] || return 0
    done
    return 1
}}
left={wait}
while [ $left -gt 0 ] && waiting; do
    sleep 1
    left=$((left - 1))
done
kill $probes 2>/dev/null
exit 0
"""

_CARDS = "grep -Hi . /sys/class/net/*/address"


@dataclass(frozen=True, kw_only=True, order=True)
class Listener:
    """A TCP port on which something accepts connections; of a unix socket the address is the path, and the port 0.

    `process` is a process in its network namespace, if that is not the main one.
    """

    port: int
    address: str
    process: str = ""


class GuestNetwork:
    """The network as the guest sees it: its sockets, its cards, its local servers."""

    def __init__(self, shell: Shell, time_scale: TimeScale = HARDWARE_SPEED) -> None:
        self._shell = shell
        self._time_scale = time_scale

    def listeners(self) -> list[Listener]:
        """Returns every listening TCP socket of the guest's own network namespace, sorted."""
        answer = self._shell.run(kernel_files.shown("/proc/net/tcp", "/proc/net/tcp6"))
        with readable(answer):
            return parse_sockets(answer.stdout)

    def ssh_listeners(self) -> list[Listener]:
        """Returns the listeners, of every network namespace, that greet a client as an ssh server does, late or not.

        Unix sockets of an ssh server's name are among them.

        Raises:
            NotJudged: the image has no program that opens a TCP connection, or enters a network namespace.
        """
        named, shown = self._shell.run(_UNIX), self._shell.run(_NAMESPACES)
        with readable(named, shown, expected="rows of /proc/net's tables"):
            sockets = [Listener(port=0, address=line.split()[-1]) for line in named.lines]
            return sockets + self._greeting(parse_namespaces(shown.stdout))

    def open_ports(self) -> list[str]:
        """Returns every listening or unconnected socket with its program, as `tcp 127.0.0.1:53 named`."""
        tables, owners, programs = (self._shell.run(script) for script in (_TABLES, _OWNERS, _PROGRAMS))
        with readable(tables, owners, programs, expected="/proc/net's tables, links of sockets, names of processes"):
            return parse_open_ports(tables.stdout, owners.stdout, programs.stdout)

    def unlisted_ports(self, allowed: Iterable[str]) -> list[str]:
        """Returns the open ports that none of the regular expressions matches as a whole."""
        return unlisted(self.open_ports(), allowed)

    def card(self, mac: str) -> str:
        """Returns the name of the network card with that MAC address, or nothing if there is none (yet)."""
        answer = self._shell.run(_CARDS, check=False)
        with readable(answer, expected="/sys/class/net/NAME/address:MAC on each line"):
            rows = (line.partition(":") for line in answer.lines)
            return next((path.split("/")[-2] for path, _, address in rows if address.strip().lower() == mac), "")

    def ensure_address(self, name: str, address: str) -> bool:
        """Returns whether a network card is up with that address (with its prefix); if not, assigns it.

        Raises:
            NotJudged: the image has no ip(8).
            CommandFailed: the card does not take the address.
        """
        shown = self._shell.run(["ip", "-o", "address", "show", "dev", name, "up"], check=False)
        if shown.exit_status == 127:
            raise NotJudged("the image has no ip(8) to give a network card its address with", Reason.IMAGE)
        if f" inet {address} " in shown.stdout:
            return True
        quoted = shlex.quote(name)
        self._shell.run(f"ip address replace {address} dev {quoted} && ip link set {quoted} up")
        return False

    def http_get(self, url: str) -> str | None:
        """Returns the body of a successful response of a server in the guest, or nothing."""
        quoted = shlex.quote(url)
        script = f"curl --silent --fail --max-time 10 {quoted} || wget -q -T 10 -O - {quoted}"
        result = self._shell.run(script, check=False)
        return result.stdout if result.ok else None

    def _greeting(self, listeners: list[Listener]) -> list[Listener]:
        """Those of the listeners that greet as an ssh server does; all are waited for together."""
        if not listeners:
            return []
        wait = round(max(_AT_LEAST, _GREETING * self._time_scale.factor))
        others = " ".join(listener.process for listener in listeners if listener.process)
        rows = "".join(f"{_target(listener, number)}\n" for number, listener in enumerate(listeners))
        answer = self._shell.run(_GREET.format(wait=wait, namespaces=others), check=False, within=_ASKING,
                                 input=rows.encode())  # fmt: skip
        if answer.exit_status in (126, 127):
            missing = "nsenter to enter other networks" if answer.exit_status == 126 else "bash nor curl to connect"
            raise NotJudged(f"no greeting can be waited for: the image has no {missing} with", Reason.IMAGE)
        numbers = {int(line.split()[0]) for line in answer.lines if re.match(r"\d{1,6} SSH-", line)}
        return [listener for number, listener in enumerate(listeners) if number in numbers]


def parse_namespaces(output: str) -> list[Listener]:
    """Reads the tables of several network namespaces, each after a line `= PROCESS`, or `= self` for the main one."""
    found: list[Listener] = []
    for part in re.split(r"^= ", output, flags=re.MULTILINE)[1:]:
        process, _, table = part.partition("\n")
        found += [replace(listener, process="" if process.strip() == "self" else process.strip())
                  for listener in parse_sockets(table)]  # fmt: skip
    return found


def parse_sockets(table: str) -> list[Listener]:
    """Reads /proc/net/tcp and tcp6 (Documentation/networking/proc_net_tcp.rst): addresses are words in host order."""
    rows = re.findall(r"^ *\d+: ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) \S+ " + _LISTEN + r"\b", table, re.MULTILINE)
    return sorted({Listener(port=int(port, 16), address=_address(address)) for address, port in rows})


def parse_open_ports(tables: str, owners: str, programs: str) -> list[str]:
    """Joins /proc/net's tables with the links of /proc/PID/fd and the names of /proc/PID/comm, sorted."""
    names = dict(line.split("/comm:", 1) for line in split_lines(programs) if "/comm:" in line)
    by_inode = {inode: names.get(process, "?") for process, inode
                in re.findall(r"^(/proc/\d+)/fd socket:\[(\d+)\]$", owners, re.MULTILINE)}  # fmt: skip
    rows = [row for row in map(str.split, split_lines(tables)) if len(row) > 10]
    return sorted({f"{row[0]} {_endpoint(row[2])} {by_inode.get(row[10], 'kernel')}" for row in rows
                   if row[4] == (_LISTEN if row[0] == "tcp" else _UNCONNECTED)})  # fmt: skip


def unlisted(ports: Iterable[str], allowed: Iterable[str]) -> list[str]:
    """Returns the ports that none of the regular expressions matches as a whole."""
    patterns = [re.compile(pattern) for pattern in allowed]
    return [port for port in ports if not any(pattern.fullmatch(port) for pattern in patterns)]


def _target(listener: Listener, number: int) -> str:
    """A row of the probe's input: namespace, address, port, number, and the address as URLs have it."""
    address = _reachable(ipaddress.ip_address(listener.address))
    in_urls = f"[{address}]" if ":" in address else address
    return f"{listener.process or 'self'} {address} {listener.port} {number} {in_urls}"


def _reachable(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """The address under which the guest reaches a listener of its own."""
    if not address.is_unspecified:
        return str(address)
    return "127.0.0.1" if address.version == 4 else "::1"


def _endpoint(words: str) -> str:
    address, _, port = words.partition(":")
    return f"{_address(address)}:{int(port, 16)}"


def _address(words: str) -> str:
    raw = b"".join(bytes.fromhex(words[start : start + 8])[::-1] for start in range(0, len(words), 8))
    address = ipaddress.ip_address(raw)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
