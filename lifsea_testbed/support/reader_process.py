"""The process of a confined reader: it takes its code in, gives every privilege away, and only then reads a byte.

Started as `python -I -m lifsea_testbed.support.reader_process UID GID MODULE ARGUMENT…` with a socket as its standard
input. The module has questions, and a function `opened` that returns what they are put to. Without a module it prints
what this host does not keep from a reader, a line each.
"""

from __future__ import annotations

import codecs
import ctypes
import importlib
import os
import resource
import socket
import sys
from collections.abc import Mapping
from typing import Any

from lifsea_testbed.support.confinement import lowered
from lifsea_testbed.support.private_dir import die_with_parent
from lifsea_testbed.support.questions import AnswerFrame, Question, QuestionFrame, receive, send, table

#: The memory of a reader (bytes), and the processor time of one answer (seconds).
MEMORY, PROCESSOR_TIME = 512 << 20, 60
#: What an answer says that ended for want of memory, and one that is too long.
OUT_OF_MEMORY, TOO_LONG = "memory", "length"
_DESCRIPTORS = 64
#: What Python loads on first use: the names in a GPT are UTF-16 (UEFI specification 2.10, 5.3.3), short ones of FAT are
#: of code page 437.
_CODECS = ("utf-8", "ascii", "latin-1", "cp437", "utf-16-le", "raw-unicode-escape", "unicode-escape")
# unshare(2); prctl(2): PR_SET_NO_NEW_PRIVS; the numbers of Landlock's system calls, the same on every
# architecture (Linux Documentation/userspace-api/landlock.rst), and all the rights to files of its first version.
_NEW_USER, _NEW_NETWORK, _NEW_IPC = 0x10000000, 0x40000000, 0x08000000
_NO_NEW_PRIVILEGES = 38
_CREATE_RULESET, _RESTRICT_SELF, _ALL_RIGHTS = 444, 446, (1 << 13) - 1
#: capset(2), _LINUX_CAPABILITY_VERSION_3.
_CAPABILITY_VERSION = 0x20080522


def main() -> None:
    """Serves the questions of a module until the parent closes the socket."""
    uid, gid, *served = sys.argv[1:]
    if not served:
        print(*confine_self(int(uid), int(gid)), sep="\n")
        return
    name, *arguments = served
    module = importlib.import_module(name)
    for codec in _CODECS:
        codecs.lookup(codec)
    connection = socket.socket(fileno=0)
    confine_self(int(uid), int(gid))
    send(connection, AnswerFrame())
    serve(connection, table(vars(module)), module.opened(arguments))


def confine_self(uid: int, gid: int) -> list[str]:
    """Gives up privileges, the network, all files that are not open, other processes, and bounds memory and files.

    As root it becomes that user. Returns what the kernel does not keep from it; the bounds are always set. The kernel
    ends it with the thread that started it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    is_root = os.geteuid() == 0
    has_network = libc.unshare((0 if is_root else _NEW_USER) | _NEW_NETWORK | _NEW_IPC) != 0
    if is_root:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    die_with_parent(os.getppid())
    _drop_capabilities(libc)
    has_files = not _forbid_files(libc)
    for kind, limit in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_NPROC, 0),
                        (resource.RLIMIT_NOFILE, _DESCRIPTORS), (resource.RLIMIT_CORE, 0)):  # fmt: skip
        resource.setrlimit(kind, (lowered(limit, resource.getrlimit(kind)[1]),) * 2)
    return [*(["the network of this host"] if has_network else []),
            *(["files that everybody may read (no Landlock in this kernel)"] if has_files else [])]


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """Drops those of a user namespace as well, of which the process is the owner."""
    header, none = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    libc.capset(ctypes.byref(header), ctypes.byref(none))


def _forbid_files(libc: ctypes.CDLL) -> bool:
    """Opens no file from now on, whatever its permissions: a ruleset of Landlock without a rule; whether it could."""
    rights = ctypes.c_uint64(_ALL_RIGHTS)
    ruleset = libc.syscall(_CREATE_RULESET, ctypes.byref(rights), ctypes.sizeof(rights), 0)
    if ruleset < 0:
        return False
    status = libc.syscall(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
    return bool(status == 0)


def serve(connection: socket.socket, questions: Mapping[str, Question[..., Any]], subject: object) -> None:
    """Answers the questions of the parent, each within the bounds, until it closes the socket."""
    while (request := receive(connection, QuestionFrame)) is not None:
        _allow_processor_time()
        try:
            send(connection, questions[request.question].answer(subject, request))
        except MemoryError:
            send(connection, AnswerFrame(ended=OUT_OF_MEMORY))
            return
        except OverflowError:
            send(connection, AnswerFrame(ended=TOO_LONG))
        except Exception:
            send(connection, AnswerFrame(ended=_trace()))


def _allow_processor_time() -> None:
    """Moves the bound by what one answer may take: the kernel ends a process that goes beyond (SIGXCPU)."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + PROCESSOR_TIME
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))


def _trace() -> str:
    """The last calls of the error that is being handled, without its source lines, which are not read any more."""
    kind, error, place = sys.exc_info()
    calls: list[str] = []
    while place is not None:
        calls.append(f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}")
        place = place.tb_next
    return "\n".join([*calls[-8:], f"{kind.__name__ if kind else ''}: {error}"[:500]])


if __name__ == "__main__":
    main()
