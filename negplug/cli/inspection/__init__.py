"""``negplug inspect``: what a checkpoint says of its negatives, and a contact sheet of it.

- :mod:`~negplug.cli.inspection.command` is the command line;
- :mod:`~negplug.cli.inspection.printed` prints what a checkpoint says;
- :mod:`~negplug.cli.inspection.sheet` runs a script up to its first loss.
"""
