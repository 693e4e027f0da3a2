"""What the tests of the test bed share."""

from __future__ import annotations

import signal

from hypothesis import settings

pytest_plugins = ["pytester"]

# A busy host makes an example slow and proves nothing.
settings.register_profile("any-host", deadline=None)
settings.load_profile("any-host")

# A program in the background of a shell ignores SIGINT, one under nohup SIGHUP, and so would every run that a test
# starts and interrupts. A handler is not inherited: these tests go on ignoring the signal, what they start does not.
for ignored in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(ignored) is signal.SIG_IGN:
        signal.signal(ignored, lambda number, frame: None)
