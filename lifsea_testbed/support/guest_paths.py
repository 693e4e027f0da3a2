"""The paths in a guest that the test bed itself writes to, and that of the machine's identity."""

from __future__ import annotations

#: Where user-data puts the guest's end of the command channel: /etc is writable by every profile.
DIRECTORY = "/etc/lifsea-testbed"
#: Each run of the user-data script appends a line with its user identifier here.
USER_DATA_RUNS = f"{DIRECTORY}/runs"
#: Files that scenarios write before a reboot or an upgrade and expect afterwards.
KEPT_IN_ETC, KEPT_IN_VAR = "/etc/lifsea-testbed-kept", "/var/lifsea-testbed-kept"
KEPT_IN_HOME = "/root/lifsea-testbed-kept"
#: machine-id(5).
MACHINE_ID = "/etc/machine-id"
#: Where user-data that runs in a bootstrap container leaves the container's shell, under that name: the first of these
#: directories in which the host runs programs.
BOOTSTRAP_PLACES, BOOTSTRAP_SHELL = ("/usr/local/lifsea-testbed", "/opt/lifsea-testbed"), "shell"
