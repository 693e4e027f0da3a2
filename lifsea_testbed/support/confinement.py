"""Confinement of every program that handles what a guest or an image's author wrote: QEMU above all.

A confined program is a process without privileges, of a user of its own (user_range.py), with limits (getrlimit(2)),
with a clean environment, and, by bubblewrap (bwrap(1)), in namespaces of its own: no network, no other process, and a
tree of files in which it can write nothing and read the system's programs only. It is killed when its owner ends.
What a host does not allow is left out, and `isolation()` says so.
"""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lifsea_testbed.errors import HostError
from lifsea_testbed.support import user_range
from lifsea_testbed.support.host_packages import install_hint
from lifsea_testbed.support.programs import run_tool

#: Detects a parent that ended before PR_SET_PDEATHSIG was set: then the process has another parent. A write beyond the
#: limit of a file's size shall fail (EFBIG), not end the program by SIGXFSZ: an ignored signal stays so over execve(2).
_WITH_PARENT = ('test "$PPID" = "$0" && trap "" XFSZ && exec "$@"; '
                'echo "started by process $0, which is gone" >&2; exit 1')  # fmt: skip
#: What a program of the system needs to run; what the host lacks of it is left out.
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store",
           "/etc/alternatives", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d")  # fmt: skip
#: Files of the kernel that root may write, also without any capability.
_KERNEL = ("--ro-bind", "/proc/sys", "/proc/sys", "--ro-bind-try", "/proc/sysrq-trigger", "/proc/sysrq-trigger")
#: The namespaces, and what lacks where they are not; all but that of processes are asked for if that one is refused.
_NAMESPACES = {"network": "--unshare-net", "files": "", "IPC": "--unshare-ipc", "processes": "--unshare-pid"}
#: The list of a thread's children (proc(5)), by which a process in a namespace is found.
_CHILDREN = "/proc/{0}/task/{0}/children"
#: How long the trial of the namespaces may take (seconds).
_TRYING = 30.0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of one confined program; None is the host's own limit, and no program dumps core.

    `memory` is the address space and `file_size` the largest file that it writes (bytes), `cpu` processor time
    (seconds), `processes` those of its user with their threads (root only: another user has processes beside it).
    """

    memory: int | None = None
    cpu: int | None = None
    processes: int | None = 64
    files: int | None = 1024
    file_size: int | None = None

    def options(self) -> list[str]:
        """Returns them as options of prlimit(1), no one above the limit that this process itself has."""
        processes = self.processes if os.geteuid() == 0 else None
        wanted = (("as", resource.RLIMIT_AS, self.memory), ("cpu", resource.RLIMIT_CPU, self.cpu),
                  ("nproc", resource.RLIMIT_NPROC, processes), ("nofile", resource.RLIMIT_NOFILE, self.files),
                  ("fsize", resource.RLIMIT_FSIZE, self.file_size), ("core", resource.RLIMIT_CORE, 0))  # fmt: skip
        return [f"--{name}={lowered(value, resource.getrlimit(number)[1])}"
                for name, number, value in wanted if value is not None]  # fmt: skip


#: No limit but that on the number of processes and of open files.
UNLIMITED = Limits()


@dataclass(frozen=True, kw_only=True)
class Isolation:
    """Which namespaces confined programs get on this host, which they do not, and why not (bwrap's words)."""

    namespaces: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    why: str = ""
    hint: str = ""
    own_users: bool = True

    @property
    def is_full(self) -> bool:
        """Whether a confined program has a user and all namespaces of its own."""
        return self.own_users and not self.missing

    @property
    def has_network(self) -> bool:
        """Whether confined programs have a network of their own."""
        return "network" in self.namespaces

    def __str__(self) -> str:
        """One line for people."""
        user = "a user of its own" if self.own_users else "this user, not one of its own (the run is not root's)"
        own = f"{user}, own {', '.join(self.namespaces)}" if self.namespaces else user
        return f"{own}; not own {', '.join(self.missing)}: {self.why}" if self.missing else own


@dataclass(frozen=True, kw_only=True)
class Confinement:
    """The user and group of a confined program, its supplementary groups, and the device that it may open."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    device: Path | None = None

    def wrap(self, command: Sequence[str], *, limits: Limits = UNLIMITED, directory: Path | None = None,
             readable: Sequence[Path] = (), writable: Sequence[Path] = (), network: bool = False) -> list[str]:
        """Returns the command, run confined, in that working directory, and killed when the thread that starts it ends.

        It reads the files of the system, of that directory and what is `readable`, and writes to the descriptors that
        it inherits and to what is `writable`; it has the network of this host with `network` only. Where the host has
        no namespaces, owner and mode of each file alone decide what it reads and writes.
        """
        check, limited = ["sh", "-c", _WITH_PARENT, str(os.getpid())], ["prlimit", *limits.options(), "--"]
        names = [name for name in isolation().namespaces if not (network and name == "network")]
        if not names:
            return [*self.drop_privileges(), *check, *limited, *command]
        read = [*places_of(command[0]), *readable, *([directory] if directory else [])]
        device = ["--dev-bind-try", str(self.device), str(self.device)] if self.device else []
        sandbox = [*_bwrap(names), *_bound(read), *_bound(writable, "--bind"), *device, "--remount-ro", "/",
                   *(["--chdir", str(directory)] if directory else []), "--"]  # fmt: skip
        return ["setpriv", "--pdeathsig", "KILL", "--", *check, *sandbox, *self.drop_privileges(), *limited, *command]

    def own(self, descriptor: int) -> None:
        """Makes the confined user the owner of an open file or directory, the only user of it beside root."""
        if os.geteuid() == 0:
            os.fchown(descriptor, self.uid, self.gid)
            os.fchmod(descriptor, 0o700 if stat.S_ISDIR(os.fstat(descriptor).st_mode) else 0o600)

    def enter_network(self, process: int, command: Sequence[str]) -> list[str]:
        """Returns the command, run without privileges in the network namespace of a confined process."""
        namespaces = f"/proc/{process}/ns"
        user = [] if os.geteuid() == 0 else [f"--user={namespaces}/user", "--preserve-credentials"]
        return ["nsenter", *user, f"--net={namespaces}/net", "--", *self.drop_privileges(), *command]

    def drop_privileges(self) -> list[str]:
        """Returns the start of a command that is to run without privileges, in the namespaces that it is started in."""
        prefix = ["setpriv", "--pdeathsig", "KILL", "--no-new-privs"]
        if os.geteuid() == 0:
            groups = ["--groups", ",".join(map(str, self.groups))] if self.groups else ["--clear-groups"]
            prefix += ["--reuid", str(self.uid), "--regid", str(self.gid), *groups, "--bounding-set=-all"]
        return [*prefix, "--"]


@contextlib.contextmanager
def confined(opens: Path | None = None) -> Iterator[Confinement]:
    """The confinement for a program, with a user of its own until the context is left.

    Started by root, the program is of a user that nobody else has. If it `opens` a device node, or a file by its
    descriptor, it has the group of that where that suffices; where only the owner may open it, the program is the
    owner's, without any capability. Started by another user it is that user's.

    Raises:
        HostError: no user is free.
    """
    device = opens if opens and opens.is_char_device() else None
    if os.geteuid() != 0:
        yield Confinement(uid=os.geteuid(), gid=os.getegid(), device=device)
        return
    with user_range.taken() as number:
        uid, groups = number, tuple[int, ...]()
        status = opens.stat() if opens and opens.exists() else None
        if status is not None and status.st_mode & 0o006 != 0o006:
            by_group = status.st_mode & 0o060 == 0o060 and status.st_gid
            uid, groups = (number, (status.st_gid,)) if by_group else (status.st_uid, ())
        yield Confinement(uid=uid, gid=number, groups=groups, device=device)


@functools.cache
def isolation() -> Isolation:
    """Returns what this host isolates confined programs by; found out once, by running one."""
    own_users, hint = os.geteuid() == 0, "a container or a policy forbids namespaces: allow them (CAP_SYS_ADMIN, or " \
        "unprivileged user namespaces), or run on a host of its own"  # fmt: skip
    if shutil.which("bwrap") is None:
        return Isolation(missing=tuple(_NAMESPACES), why="bwrap is not installed", hint=install_hint("bwrap"),
                         own_users=own_users)  # fmt: skip
    every, why = tuple(_NAMESPACES), ""
    for names in (every, tuple(name for name in every if name != "processes")):
        trouble = _trouble(names)
        if not trouble:
            missing = tuple(name for name in every if name not in names)
            return Isolation(namespaces=names, missing=missing, why=why, hint=hint if missing else "",
                             own_users=own_users)  # fmt: skip
        why = why or trouble
    return Isolation(missing=every, why=why, hint=hint, own_users=own_users)


def process_in(wrapper: int) -> int:
    """Returns the process that a wrapped command became, of the process that was started for it.

    To be called when the command runs and has no children yet.
    """
    process = wrapper
    with contextlib.suppress(OSError):
        while children := Path(_CHILDREN.format(process)).read_text("ascii").split():
            process = int(children[0])
    return process


def exit_status(status: int | None) -> int | None:
    """Returns the status of a wrapped command as `subprocess` has it: bwrap(1) reports signal N as 128 + N."""
    return 128 - status if status is not None and 128 < status < 128 + 65 else status


def places_of(program: str) -> list[Path]:
    """Returns where a program lies that is not the system's: its file, and with it what QEMU has beside it."""
    found = Path(shutil.which(program) or program)
    if not found.is_absolute() or str(found).startswith(("/usr/", "/proc/")):
        return []
    prefix = found.resolve().parent.parent
    return [found, found.resolve(), *([prefix] if (prefix / "share" / "qemu").is_dir() else [])]


def _trouble(names: Sequence[str]) -> str:
    """The last line of bwrap's error when it makes these namespaces; empty if it can."""
    if "processes" in names and not Path(_CHILDREN.format(os.getpid())).exists():
        return "this kernel does not list the children of a process (CONFIG_PROC_CHILDREN)"
    command = [*_bwrap(names), "--", "true"]
    try:
        ended = run_tool(command, within=_TRYING)
    except HostError as error:
        return error.happened
    return "" if ended.returncode == 0 else ended.stderr.strip().rpartition("\n")[2] or f"status {ended.returncode}"


def _bwrap(names: Sequence[str]) -> list[str]:
    """The call of bwrap up to the tree of files; without a namespace of processes /proc is the host's."""
    proc = ["--proc", "/proc"] if "processes" in names else ["--ro-bind", "/proc", "/proc"]
    unshared = [option for name in names if (option := _NAMESPACES[name])]
    shown = [*proc, *_KERNEL, "--dev", "/dev", *_bound([Path(path) for path in _SYSTEM])]
    return ["bwrap", "--die-with-parent", *unshared, *shown]


def _bound(places: Sequence[Path], option: str = "--ro-bind") -> list[str]:
    """The options that show these places where they are."""
    options: list[str] = []
    for path in dict.fromkeys(places):
        if path.is_symlink() and str(path) in _SYSTEM:
            options += ["--symlink", str(path.readlink()), str(path)]
        elif path.exists():
            # bwrap would make the directories above with mode 0700.
            above = [str(parent) for parent in reversed(path.parents[:-1])]
            options += [word for parent in above for word in ("--dir", parent)] + [option, str(path), str(path)]
    return options


def lowered(value: int, limit: int) -> int:
    """Returns the value, or a hard limit of this process (getrlimit(2)) that is below it."""
    return value if limit == resource.RLIM_INFINITY else min(value, limit)
