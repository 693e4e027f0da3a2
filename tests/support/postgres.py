"""A PostgreSQL server of the tests' own: on a socket in a private directory, without privileges, gone with them."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_TIMEOUT = 30.0


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Yields the URL of an empty database."""
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    with tempfile.TemporaryDirectory(prefix="lifsea-postgres-", ignore_cleanup_errors=True) as directory:
        place = Path(directory)
        shutil.chown(place, user)
        as_user = ["setpriv", "--pdeathsig", "INT"]
        if os.geteuid() == 0:
            as_user += ["--reuid", user, "--regid", user, "--clear-groups"]
        initialise = [_program("initdb"), "-D", f"{place}/data", "-U", user, "-A", "peer", "--no-sync", "-E", "UTF8"]
        subprocess.run([*as_user, *initialise], check=True, capture_output=True, cwd="/")
        # Only those who can enter the directory get to the socket: they need no password.
        (place / "data/pg_hba.conf").write_text("local all all trust\n")
        command = [_program("postgres"), "-D", f"{place}/data", "-k", directory, "-c", "listen_addresses=",
                   "-c", "fsync=off"]  # fmt: skip
        process = subprocess.Popen([*as_user, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
        try:
            _wait(directory, user)
            yield f"postgresql://{user}@/postgres?host={directory}"
        finally:
            process.terminate()
            process.wait(_TIMEOUT)


def _wait(directory: str, user: str) -> None:
    end = time.monotonic() + _TIMEOUT
    probe = [_program("pg_isready"), "-q", "-h", directory, "-U", user]
    while subprocess.run(probe, check=False).returncode != 0:
        assert time.monotonic() < end, "the server does not start"
        time.sleep(0.05)


def _program(name: str) -> str:
    """Debian keeps the server's programs, a directory for each version, off the path."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else name
