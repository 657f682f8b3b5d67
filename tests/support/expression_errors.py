"""The error of an expression, as text with its caret."""

from __future__ import annotations

import pytest

from negplug.plugins.expression import ExpressionError


def marked(text: str) -> tuple[str, int, int]:
    """Split `f(«x»)` into the text and the place of what is between the marks."""
    start = text.index("«")
    stop = text.index("»") - 1
    return text.replace("«", "").replace("»", ""), start, stop


def error_of(action, text: str) -> tuple[str, str, int, int]:
    """Return reason, shown text and the carets' place of the error that `action(text)` raises."""
    with pytest.raises(ExpressionError) as caught:
        action(text)
    reason, shown, carets = str(caught.value).split("\n")
    assert reason == caught.value.reason
    assert shown.startswith("    ")
    assert set(carets[4:].strip()) == {"^"}
    start = len(carets) - len(carets.lstrip()) - 4
    return reason, shown[4:], start, len(carets) - 4
