"""Fails at import, as with a missing or outdated dependency."""

import sys

print(f"{__name__} is imported", file=sys.stderr)
raise RuntimeError("the kernels were built for another torch")
