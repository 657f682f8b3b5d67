"""Contact sheets: an anchor, its positive and its drawn negatives as pictures.

- :mod:`~negplug.diagnostics.contact_sheet.draws` reads off a loss call what a few anchors were
  given, :mod:`~negplug.diagnostics.contact_sheet.whose` whose rows those are;
- :mod:`~negplug.diagnostics.contact_sheet.images` finds their pictures;
- :mod:`~negplug.diagnostics.contact_sheet.sheet` and
  :mod:`~negplug.diagnostics.contact_sheet.html` draw the sheet.
"""
