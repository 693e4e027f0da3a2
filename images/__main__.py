"""Runs the command line of images/."""

import sys

from images.cli import main

sys.exit(main())
