"""Persistent chains over the samples of the data set: what ``emc2`` and ``isir`` are made of."""
