"""How a root shell is come by: the product's own way, a user-data script that the metadata service hands out."""

from __future__ import annotations

import importlib.resources

_DIRECTORY = "/etc/lifsea-testbed"
#: Each run of the user-data script leaves its user identifier here, on a line.
RUNS = f"{_DIRECTORY}/runs"
_UNIT = "lifsea-testbed-shell.service"


def user_data(port: str) -> bytes:
    """Returns a user-data script that opens the command channel on that virtio-serial port, now and at each later boot.

    It writes below /etc only, which every profile promises to be writable: a script and a systemd unit. The port is
    found through sysfs, so that an image with trimmed udev rules serves as well.
    """
    agent = importlib.resources.files("lifsea_testbed.console").joinpath("channel.sh").read_text("utf-8")
    return _USER_DATA.format(directory=_DIRECTORY, runs=RUNS, unit=_UNIT, agent=agent, port=port).encode()


_USER_DATA = """#!/bin/sh
mkdir -p {directory} /etc/systemd/system/basic.target.wants
id -u >>{runs}
cat >{directory}/channel.sh <<'END-OF-CHANNEL'
{agent}
END-OF-CHANNEL
cat >{directory}/open.sh <<'END-OF-OPEN'
for name in /sys/class/virtio-ports/*/name; do
	read -r is <"$name"
	device=${{name%/name}}
	[ "$is" = "{port}" ] && exec /bin/sh {directory}/channel.sh "/dev/${{device##*/}}"
done
echo "no virtio-serial port is called {port}"
exit 1
END-OF-OPEN
cat >/etc/systemd/system/{unit} <<'END-OF-UNIT'
[Unit]
Description=Root shell on a virtio-serial port
DefaultDependencies=no
After=local-fs.target
[Service]
ExecStart=/bin/sh {directory}/open.sh
Environment=HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
Restart=always
RestartSec=0
OOMScoreAdjust=-1000
[Install]
WantedBy=basic.target
END-OF-UNIT
ln -sf ../{unit} /etc/systemd/system/basic.target.wants/{unit}
systemctl daemon-reload
systemctl --no-block start {unit}
"""
