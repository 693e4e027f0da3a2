"""What the tests of the test bed share."""

from __future__ import annotations

import signal

from hypothesis import settings

pytest_plugins = ["pytester"]

# A busy host makes an example slow and proves nothing.
settings.register_profile("any-host", deadline=None)
settings.load_profile("any-host")

# A program in the background of a shell ignores SIGINT, and so would every run that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
