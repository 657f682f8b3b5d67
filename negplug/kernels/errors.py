"""Errors that are told apart by their class; loads nothing."""


class RanksError(ValueError):
    """An error that every rank raises in the same exchange, so that none has to be told of it."""
