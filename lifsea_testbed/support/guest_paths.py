"""The paths in a guest that the test bed itself writes to, and the one that tells a machine from others."""

from __future__ import annotations

#: Where user-data puts the guest's end of the command channel: /etc is writable by every profile.
DIRECTORY = "/etc/lifsea-testbed"
#: Each run of the user-data script appends its user identifier here, on a line.
USER_DATA_RUNS = f"{DIRECTORY}/runs"
#: Files that scenarios write before a reboot or an upgrade: they belong to the machine, not to the image.
KEPT_IN_ETC, KEPT_IN_VAR = "/etc/lifsea-testbed-kept", "/var/lifsea-testbed-kept"
KEPT_IN_HOME = "/root/lifsea-testbed-kept"
#: machine-id(5).
MACHINE_ID = "/etc/machine-id"
