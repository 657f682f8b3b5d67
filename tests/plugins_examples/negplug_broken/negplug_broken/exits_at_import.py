"""A script without a main guard: importing it ends the process."""

raise SystemExit("usage: exits_at_import FILE")
