"""What a plugin author reads: the batch, the negatives, the base classes, the hooks."""
