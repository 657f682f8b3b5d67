"""Composed batches: what a Trainer and a loop of one's own have in common, and the loop's way in.

``epochs`` has a composer with what it has learnt, ``shares`` how an epoch is cut into batches.
"""
