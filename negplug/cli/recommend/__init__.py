"""``negplug recommend``: which negatives a recipe should have, tried on the recipe itself.

- :mod:`~negplug.cli.recommend.main` is the command;
- :mod:`~negplug.cli.recommend.shortlist` holds the choices by batch size, which are
  :mod:`~negplug.cli.recommend.choice`;
- :mod:`~negplug.cli.recommend.bench` tries them, stopped early by
  :mod:`~negplug.cli.recommend.halving`;
- :mod:`~negplug.cli.recommend.gain` measures what the best one gains, and
  :mod:`~negplug.cli.recommend.verdict` says it.
"""
