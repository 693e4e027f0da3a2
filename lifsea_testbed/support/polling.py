"""Waits for descriptors, of any number: poll(2), since select(2) fails for those from 1024 on."""

from __future__ import annotations

import math
import select
from collections.abc import Iterable
from typing import Protocol

from lifsea_testbed.support.deadline import Deadline

#: The longest wait of one call (milliseconds): poll(2) takes an int.
_LONGEST = 2**31 - 1


class HasDescriptor(Protocol):
    """An open file, a socket, or a `Liveness`."""

    def fileno(self) -> int:
        """The descriptor; negative once it is closed."""
        ...


def wait_for_ready(deadline: Deadline | None, *readable: int | HasDescriptor,
                   writable: Iterable[HasDescriptor] = ()) -> bool:
    """Waits until one of the descriptors can be read or written, or is at its end; returns False at the deadline.

    A closed one counts as ready: its next use shows why. Without a deadline it waits for as long as a user may take.
    """
    poll = select.poll()
    wanted = [*((each, select.POLLIN) for each in readable), *((each, select.POLLOUT) for each in writable)]
    for each, events in wanted:
        descriptor = each if isinstance(each, int) else each.fileno()
        if descriptor < 0:
            return True
        poll.register(descriptor, events)
    return bool(poll.poll(None if deadline is None else min(_LONGEST, math.ceil(deadline.remaining * 1000))))
