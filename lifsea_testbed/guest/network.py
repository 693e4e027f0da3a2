"""The network side of a guest: who listens, who speaks ssh, what a local HTTP server answers."""

from __future__ import annotations

import ipaddress
import re
import shlex
from dataclasses import dataclass

from lifsea_testbed.errors import NotJudged
from lifsea_testbed.guest.shell import Shell

#: State 0A is TCP_LISTEN (include/net/tcp_states.h).
_LISTEN = "0A"
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


@dataclass(frozen=True, kw_only=True, order=True)
class Listener:
    """A TCP port on which something accepts connections."""

    port: int
    address: str


def listeners(shell: Shell) -> list[Listener]:
    """Returns every listening TCP socket of the guest's own network namespace, sorted."""
    return parse_sockets(shell.run("cat /proc/net/tcp /proc/net/tcp6 2>/dev/null || :").stdout)


def parse_sockets(table: str) -> list[Listener]:
    """Reads /proc/net/tcp and tcp6 (Documentation/networking/proc_net_tcp.rst): addresses are words in host order."""
    rows = re.findall(r"^\s*\d+: ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) \S+ " + _LISTEN + r"\b", table, re.MULTILINE)
    return sorted({Listener(port=int(port, 16), address=_address(address)) for address, port in rows})


def ssh_speakers(shell: Shell) -> list[Listener]:
    """Returns the listeners that greet a client as an ssh server does.

    Raises:
        NotJudged: the image has nothing that opens a TCP connection.
    """
    return [listener for listener in listeners(shell) if _banner(shell, listener).startswith("SSH-")]


def http_get(shell: Shell, url: str) -> str | None:
    """Returns the body that a server in the guest answers with, or nothing if it does not answer with success."""
    quoted = shlex.quote(url)
    result = shell.run(f"curl --silent --fail --max-time 10 {quoted} || wget -q -T 10 -O - {quoted}", check=False)
    return result.stdout if result.ok else None


def _banner(shell: Shell, listener: Listener) -> str:
    address = _reachable(ipaddress.ip_address(listener.address))
    target = f"[{address}]" if ":" in address else address
    result = shell.run(_BANNER.format(address=address, target=target, port=listener.port), check=False)
    if result.exit_status == 127:
        raise NotJudged("the image has neither bash nor curl to open a connection with")
    return result.stdout


def _reachable(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """The address under which the guest reaches a listener of its own."""
    if not address.is_unspecified:
        return str(address)
    return "127.0.0.1" if address.version == 4 else "::1"


def _address(words: str) -> str:
    raw = b"".join(bytes.fromhex(words[start : start + 8])[::-1] for start in range(0, len(words), 8))
    address = ipaddress.ip_address(raw)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
