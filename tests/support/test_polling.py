"""Waits for descriptors: any number of them, closed ones included."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from lifsea_testbed.errors import LaunchError
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.liveness import Liveness
from lifsea_testbed.support.polling import wait_for_ready
from tests.support import ROOT

MANY = 1100


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """This process has more open descriptors than select(2) knows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * MANY:
        pytest.skip(f"this host allows {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * MANY), hard))
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(MANY)]
    yield
    for descriptor in opened:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_wait_ends_when_there_is_something_to_read() -> None:
    near, far = socket.socketpair()
    assert not wait_for_ready(Deadline.after(0.05), near)
    far.send(b"x")
    assert wait_for_ready(Deadline.after(30), near) and wait_for_ready(None, near.fileno())
    far.close()
    near.close()
    assert wait_for_ready(Deadline.after(30), near)


@pytest.mark.usefixtures("many_descriptors")
def test_liveness_and_streams_work_beyond_a_thousand_descriptors() -> None:
    from lifsea_testbed.console.socket_io import SocketStream

    liveness = Liveness()
    ours, theirs = socket.socketpair()
    assert min(liveness.fileno(), ours.fileno()) > 1024
    stream = SocketStream(ours)
    liveness.pause(0.01, Deadline.after(1))
    assert not liveness.wait(Deadline.after(0.01)) and stream.receive(Deadline.after(0.01), liveness) == b""
    theirs.send(b"x")
    assert stream.receive(Deadline.after(30), liveness) == b"x"
    threading.Timer(0.1, liveness.end, [lambda: LaunchError("off")]).start()
    started = time.monotonic()
    with pytest.raises(LaunchError, match="off"):
        stream.receive(Deadline.after(60), liveness)
    assert time.monotonic() - started < 30
    stream.close()
    theirs.close()
    liveness.close()


def test_no_module_waits_by_select() -> None:
    """select(2) fails for descriptors from 1024 on, of which a fleet or another plugin may hold as many."""
    found = subprocess.run(["git", "grep", "-nE", r"\bselect\.(select|epoll)\(", "--", "lifsea_testbed"], cwd=ROOT,
                           capture_output=True, text=True, check=False).stdout  # fmt: skip
    assert found == ""
