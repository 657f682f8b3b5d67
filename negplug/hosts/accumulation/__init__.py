"""Large batches in the memory of small ones: a step that runs micro-batch by micro-batch.

``cache`` has the algorithm; the other files are what it needs to be a step like any other.
"""
