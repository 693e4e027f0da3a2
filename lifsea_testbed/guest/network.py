"""The network of a guest: listening sockets, ssh servers, network cards, local HTTP servers."""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from lifsea_testbed.errors import NotJudged, Reason
from lifsea_testbed.guest.answers import readable
from lifsea_testbed.support.protocols import Shell

#: State 0A is TCP_LISTEN, and an unconnected UDP socket is in 07, TCP_CLOSE (include/net/tcp_states.h).
_LISTEN, _UNCONNECTED = "0A", "07"
_TABLES = "for table in tcp tcp6 udp udp6; do sed \"s/^/${table%6} /\" /proc/net/$table 2>/dev/null; done"
_OWNERS = "find /proc/[0-9]*/fd -lname 'socket:*' -printf '%h %l\\n' 2>/dev/null || :"
_PROGRAMS = "grep -H . /proc/[0-9]*/comm 2>/dev/null || :"
# RFC 4253, 4.2: a server identifies itself first, by a line that starts with SSH-.
_BANNER = """
if command -v bash >/dev/null; then
    bash -c 'exec 3<>"/dev/tcp/$0/$1" && IFS= read -r -t 3 line <&3; printf "%s" "$line"' {address} {port}
elif command -v curl >/dev/null; then
    curl --silent --max-time 3 telnet://{target}:{port} </dev/null | head -n 1
else
    exit 127
fi 2>/dev/null
"""

_CARDS = "grep -Hi . /sys/class/net/*/address"


@dataclass(frozen=True, kw_only=True, order=True)
class Listener:
    """A TCP port on which something accepts connections."""

    port: int
    address: str


class GuestNetwork:
    """The network as the guest sees it: its sockets, its cards, its local servers."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def listeners(self) -> list[Listener]:
        """Returns every listening TCP socket of the guest's own network namespace, sorted."""
        answer = self._shell.run("cat /proc/net/tcp /proc/net/tcp6 2>/dev/null || :")
        with readable(answer):
            return parse_sockets(answer.stdout)

    def ssh_listeners(self) -> list[Listener]:
        """Returns the listeners that greet a client as an ssh server does.

        Raises:
            NotJudged: the image has no program that opens a TCP connection.
        """
        return [listener for listener in self.listeners() if self._banner(listener).startswith("SSH-")]

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

    def _banner(self, listener: Listener) -> str:
        address = _reachable(ipaddress.ip_address(listener.address))
        target = f"[{address}]" if ":" in address else address
        result = self._shell.run(_BANNER.format(address=address, target=target, port=listener.port), check=False)
        if result.exit_status == 127:
            raise NotJudged("the image has neither bash nor curl to open a connection with", Reason.IMAGE)
        return result.stdout


def parse_sockets(table: str) -> list[Listener]:
    """Reads /proc/net/tcp and tcp6 (Documentation/networking/proc_net_tcp.rst): addresses are words in host order."""
    rows = re.findall(r"^\s*\d+: ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) \S+ " + _LISTEN + r"\b", table, re.MULTILINE)
    return sorted({Listener(port=int(port, 16), address=_address(address)) for address, port in rows})


def parse_open_ports(tables: str, owners: str, programs: str) -> list[str]:
    """Joins /proc/net's tables with the links of /proc/PID/fd and the names of /proc/PID/comm, sorted."""
    names = dict(line.split("/comm:", 1) for line in programs.splitlines() if "/comm:" in line)
    by_inode = {inode: names.get(process, "?") for process, inode
                in re.findall(r"^(/proc/\d+)/fd socket:\[(\d+)\]$", owners, re.MULTILINE)}  # fmt: skip
    rows = [row for row in map(str.split, tables.splitlines()) if len(row) > 10]
    return sorted({f"{row[0]} {_endpoint(row[2])} {by_inode.get(row[10], 'kernel')}" for row in rows
                   if row[4] == (_LISTEN if row[0] == "tcp" else _UNCONNECTED)})  # fmt: skip


def unlisted(ports: Iterable[str], allowed: Iterable[str]) -> list[str]:
    """Returns the ports that none of the regular expressions matches as a whole."""
    patterns = [re.compile(pattern) for pattern in allowed]
    return [port for port in ports if not any(pattern.fullmatch(port) for pattern in patterns)]


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
