"""The operations container: off until it is started, each call of its tool recorded."""

from __future__ import annotations

from lifsea_testbed.profiles.profile import OperationsSection
from lifsea_testbed.support.protocols import Shell

#: Starting the container may have to unpack an image first (seconds on real hardware).
_START = 60.0
# The processes whose root directory is another file than the shell's own, by builtins of the shell alone. A thread of
# the kernel has no program, and may have a root of its own, as kdevtmpfs does.
_CONTAINED = """
for process in /proc/[0-9]*; do
    [ -e $process/exe ] && [ -e $process/root/ ] || continue
    [ $process/root/ -ef /proc/self/root/ ] || echo $process/
done
:
"""


class OperationsContainer:
    """Controls the operations container by the commands of the profile."""

    def __init__(self, shell: Shell, commands: OperationsSection) -> None:
        self._shell = shell
        self._commands = commands

    @property
    def is_running(self) -> bool:
        """Whether the container runs, by the output of the tool.

        Raises:
            CommandFailed: there is no such tool.
        """
        self._shell.run(f"command -v {self._commands.status.split()[0]}")
        output = self._shell.run(self._commands.status, check=False).stdout
        return self._commands.running in output.split()

    def contained(self) -> list[str]:
        """Returns the processes that live in containers, whoever started them: their root is not the system's.

        The kernel is asked, and not the tool: an answer of the tool is no more than its word.
        """
        return sorted(self._shell.run(_CONTAINED).lines)

    def start(self) -> None:
        """Starts it."""
        self._shell.run(self._commands.start, within=_START)

    def stop(self) -> None:
        """Stops it."""
        self._shell.run(self._commands.stop, within=_START)

    def audit_log(self) -> list[str]:
        """The lines of the audit log; none if there is no log."""
        return self._shell.run(f"cat {self._commands.audit_log} 2>/dev/null || :").lines
