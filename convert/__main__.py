"""``python -m convert`` is ``edge-convert``."""

from convert.cli import main

main()
