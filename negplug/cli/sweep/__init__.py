"""``negplug sweep``: one script under several samplers, settings and seeds.

- :mod:`~negplug.cli.sweep.main` is the command;
- :mod:`~negplug.cli.sweep.grid` makes the runs, :mod:`~negplug.cli.sweep.study` keeps them,
  :mod:`~negplug.cli.sweep.runs` does them;
- :mod:`~negplug.cli.sweep.choice` finds each sampler's best setting, and
  :mod:`~negplug.cli.sweep.report` and :mod:`~negplug.cli.sweep.figures` show what was found.
"""
