"""Makes `python -m lifsea_testbed` run the command line."""

from __future__ import annotations

import sys

from lifsea_testbed.cli import main

sys.exit(main())
