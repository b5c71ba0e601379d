"""``python -m edge``: the same as the command ``edge``."""

import sys

from edge.cli import main

sys.exit(main())
