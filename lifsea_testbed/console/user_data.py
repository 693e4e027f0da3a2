"""The user-data scripts that open a root shell: in the system itself, or in its bootstrap container for its system.

LifseaOS since 3.5 has no shell, and runs user-data in a privileged container (release notes of 3.5.0): with the host's
process identifiers and network, with its /etc, /opt and /usr/local to be written, and with systemctl. The script leaves
the container's shell in the host, where a unit starts it: every program that it runs is then the host's own.
"""

from __future__ import annotations

import importlib.resources

from lifsea_testbed.profiles.profile import AccessMethod, AccessSection, ChannelDevice
from lifsea_testbed.support.guest_paths import BOOTSTRAP_PLACES, BOOTSTRAP_SHELL, DIRECTORY, USER_DATA_RUNS

_UNIT = "lifsea-testbed-shell.service"
_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def agent(name: str) -> str:
    """Returns the guest's end of a command channel: channel.sh or terminal.sh."""
    return importlib.resources.files("lifsea_testbed.console").joinpath(name).read_text("utf-8")


def user_data(port: str, access: AccessSection) -> bytes:
    """Returns a user-data script that opens a command channel, now and at each later boot; nothing if none is wanted.

    It writes to the directories of `access` alone, by default below /etc, which every profile promises to be writable:
    a script and a systemd unit. A virtio-serial port is found by its name through sysfs, so that images with trimmed
    udev rules work as well; on a terminal the getty is stopped. Without systemd the script starts the channel itself,
    and has /etc/inittab start it at later boots, where init reads that.
    """
    if access.has_no_shell:
        return b""
    if access.line is ChannelDevice.PORT:
        opening = _OPEN_PORT.format(port=port, directory=access.directory)
        return _script(access, agent("channel.sh"), opening)
    opening = f"exec sh {access.directory}/agent.sh /dev/{access.line}\n"
    return _script(access, agent("terminal.sh"), opening, terminal=access.line)


def console_shell_user_data(access: AccessSection) -> bytes:
    """Returns a user-data script that opens an interactive root shell on ttyS0, now and at each later boot."""
    opening = 'export TERM=vt220; cd /root; if command -v bash >/dev/null; then exec bash -l; else exec sh -l; fi\n'
    service = f"StandardInput=tty-force\nTTYPath=/dev/{ChannelDevice.SERIAL}\n"
    return _script(access, "", opening, terminal=ChannelDevice.SERIAL, service=service)


def own_files(access_method: str) -> list[str]:
    """Returns the paths of the programs that such a script puts into the guest, by the method that opened the shell."""
    is_copied = access_method == AccessMethod.BOOTSTRAP
    return [f"{place}/{BOOTSTRAP_SHELL}" for place in BOOTSTRAP_PLACES] if is_copied else []


def _script(access: AccessSection, agent: str, opening: str, *, terminal: ChannelDevice | None = None,
            service: str = "") -> bytes:  # fmt: skip
    in_container = AccessMethod.BOOTSTRAP in access.methods and AccessMethod.USER_DATA not in access.methods
    paths = {"directory": access.directory, "units": access.units, "unit": _UNIT, "search_path": _SEARCH_PATH}
    taking = _TAKE_TERMINAL.format(line=terminal, **paths) if terminal else ""
    shell, further_path = ("$tools/shell", ":$tools") if in_container else ("/bin/sh", "")
    unit = _START_UNIT.format(taking=taking, service=service, shell=shell, further_path=further_path, **paths)
    start = _COPY_SHELL.format(places=" ".join(BOOTSTRAP_PLACES), shell=BOOTSTRAP_SHELL) + unit if in_container else \
        f"if [ -d /run/systemd/system ]; then # sd_booted(3)\n{unit}else\n{_START_PROCESS.format(**paths)}fi\n"
    return (_INSTALL.format(runs=USER_DATA_RUNS, records=DIRECTORY, agent=agent, opening=opening, **paths)
            + start).encode()  # fmt: skip


# A machine whose first boot was cut may run this again while the shell of an earlier run reads these files.
_INSTALL = """#!/bin/sh
mkdir -p {records} {directory}/new
id -u >>{runs}
cat >{directory}/new/agent.sh <<'END-OF-AGENT'
{agent}
END-OF-AGENT
cat >{directory}/new/open.sh <<'END-OF-OPEN'
{opening}END-OF-OPEN
mv {directory}/new/agent.sh {directory}/new/open.sh {directory}
"""
# The kernel may load the port's driver, if that is a module, after this has started.
_OPEN_PORT = """reported=
while :; do
	for name in /sys/class/virtio-ports/*/name; do
		[ -r "$name" ] && read -r is <"$name" && [ "$is" = "{port}" ] || continue
		device=${{name%/name}}
		exec sh {directory}/agent.sh "/dev/${{device##*/}}"
	done
	[ -n "$reported" ] || echo "no virtio-serial port is called {port} yet"
	reported=yes
	sleep 0.1 || sleep 1
done
"""
_START_UNIT = """mkdir -p {units}/basic.target.wants
cat >{units}/{unit} <<END-OF-UNIT
[Unit]
Description=Root shell for the test bed
DefaultDependencies=no
After=local-fs.target
StartLimitIntervalSec=0
[Service]
{service}ExecStart={shell} {directory}/open.sh
Environment=HOME=/root PATH={search_path}{further_path} LC_ALL=C
Restart=always
RestartSec=0.1
OOMScoreAdjust=-1000
[Install]
WantedBy=basic.target
END-OF-UNIT
ln -sf ../{unit} {units}/basic.target.wants/{unit}
systemctl daemon-reload
{taking}systemctl --no-block start {unit}
"""
_TAKE_TERMINAL = """for getty in serial-getty getty; do
	ln -sf /dev/null {units}/$getty@{line}.service
	systemctl stop $getty@{line}.service
done
"""
# The inits of busybox and of System V read /etc/inittab: the second wants an identifier and runlevels.
_START_PROCESS = """cat >{directory}/forever.sh <<'END-OF-LOOP'
mkdir /run/lifsea-testbed-loop || exit
export HOME=/root PATH={search_path} LC_ALL=C
while :; do
	sh {directory}/open.sh
	sleep 1
done
END-OF-LOOP
if [ -f /etc/inittab ] && ! grep -q {directory} /etc/inittab; then
	case $(readlink -f /sbin/init) in
	*busybox*) echo "::once:/bin/sh {directory}/forever.sh" ;;
	*) echo "lt:2345:once:/bin/sh {directory}/forever.sh" ;;
	esac >>/etc/inittab
fi
setsid sh {directory}/forever.sh </dev/null >/dev/null 2>&1 &
"""
# A shell that runs in the host and finds the host's programs: not one of busybox that puts its own before them.
_COPY_SHELL = """command -v systemctl >/dev/null || systemctl() {{ chroot /proc/1/root systemctl "$@"; }}
tools=
for place in {places}; do
	rm -rf "$place"
	for shell in /bin/sh /bin/dash /bin/bash; do
		[ -z "$tools" ] && mkdir -p "$place" && cat "$shell" >"$place/{shell}" && chmod 755 "$place/{shell}" || continue
		case $(chroot /proc/1/root "$place/{shell}" -c 'command -v mkdir') in /*) tools=$place ;; esac
	done
	[ "$tools" = "$place" ] || rm -rf "$place"
done
if [ -z "$tools" ]; then
	echo "lifsea-testbed: no shell of the bootstrap container runs in the host's system" >/dev/kmsg
	exit 1
fi
ln -s {shell} "$tools/sh"
"""
