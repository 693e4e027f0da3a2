"""Runs the command line."""

import sys

from lifsea_testbed.cli import main

sys.exit(main())
