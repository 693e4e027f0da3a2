"""Which limit of the host it is that a program's error shows (getrlimit(2)): memory, processes, descriptors, modes."""

from __future__ import annotations

import re
import resource

from lifsea_testbed.support.host import available_memory

_NO_MEMORY = re.compile(r"Cannot allocate memory|failed to map segment|[Oo]ut of memory")
_NO_PROCESS, _NO_DESCRIPTOR = "Resource temporarily unavailable", "Too many open files"
_TOO_LARGE, _NO_ACCESS = "File too large", "Permission denied"


def hint_for(error: str, otherwise: str = "") -> str:
    """Returns the limit that the text of an error shows, with its value here, and what raises it; else `otherwise`."""
    if _NO_MEMORY.search(error):
        return _memory()
    if _NO_PROCESS in error:
        return f"this user may have {_soft(resource.RLIMIT_NPROC)} processes and threads here: raise ulimit -u"
    if _NO_DESCRIPTOR in error:
        return f"a process may have {_soft(resource.RLIMIT_NOFILE)} open files here: raise ulimit -n"
    if _TOO_LARGE in error:
        return f"a process may write files of {_soft(resource.RLIMIT_FSIZE)} bytes here: raise ulimit -f"
    if _NO_ACCESS in error:
        return "a file of QEMU's cannot be read by other users, as after an installation with umask 077: chmod go+rX"
    return otherwise


def _memory() -> str:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return f"{available_memory()} MiB of memory are available on this host: stop other programs"
    return f"a process may have {limit >> 20} MiB of address space here: raise ulimit -v"


def _soft(number: int) -> str:
    limit = resource.getrlimit(number)[0]
    return "any number of" if limit == resource.RLIM_INFINITY else str(limit)
