"""Whether a data set is the one that state was saved of, as far as can be told."""
