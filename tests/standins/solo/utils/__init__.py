"""Ranks and momentum."""
