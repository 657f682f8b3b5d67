"""What a checkpoint says of its negatives, without the code that wrote it.

- :mod:`~negplug.diagnostics.saved.file` reads the file and runs nothing of it;
- :mod:`~negplug.diagnostics.saved.states` finds the treated losses in it,
  :mod:`~negplug.diagnostics.saved.values` sums up what their samplers remember.
"""
