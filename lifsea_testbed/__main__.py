"""Runs the command line."""

import sys

from lifsea_testbed.cli.main import main

sys.exit(main())
