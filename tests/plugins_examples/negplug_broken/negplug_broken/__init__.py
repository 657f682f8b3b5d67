"""Faulty plugins, one module for each fault."""

import sys

# Seen in a process's output, so that a test can prove that nothing here was imported.
print("negplug_broken is imported", file=sys.stderr)
