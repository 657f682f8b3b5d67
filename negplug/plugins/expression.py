"""Parse ``uniform(num_negatives=64, source=in_batch())`` without evaluating anything.

The grammar is Python's own call syntax restricted to literals::

    call    ::= name "(" [argument ("," argument)*] ")"
    argument::= [name "="] (call | literal)
    literal ::= number | string | True | False | None | list or tuple of literals

Python's parser (``ast``) does the reading. :mod:`negplug.plugins.build` looks names up, never in a
namespace. Every error points at the offending token.
"""

from __future__ import annotations

import ast
import contextlib
import re
from dataclasses import dataclass
from typing import Any

#: Of an expression, in characters; more is no expression that somebody has written.
LONGEST = 10_000

# Of what an error shows, in characters: of the expression around its caret, and of a name.
_SHOWN = 160
_NAME = 60


class ExpressionError(ValueError):
    """A malformed expression, with a caret under the token that is wrong.

    Of a long expression what stands around the token is shown.
    """

    def __init__(self, reason: str, text: str, start: int = 0, stop: int | None = None) -> None:
        stop = max(start + 1, len(text) if stop is None else stop)
        text, start, stop = _window(text, start, stop)
        super().__init__(f"{reason}\n    {text}\n    {' ' * start}{'^' * (stop - start)}")
        self.reason = reason


@dataclass(frozen=True)
class Span:
    """Where a token stands in the text, in characters."""

    start: int
    stop: int


@dataclass(frozen=True)
class Argument:
    """One argument of a call; ``name`` is None if positional."""

    name: str | None
    value: Call | Any
    span: Span


@dataclass(frozen=True)
class Call:
    """A parsed call expression.

    Attributes:
        text: The whole text that was parsed, for error messages.
        name: What is called.
        arguments: In the order written.
        span: The name's place in ``text``.
        canonical: The call as Python would print it.
    """

    text: str
    name: str
    arguments: tuple[Argument, ...]
    span: Span
    canonical: str

    def error(self, reason: str, span: Span | None = None) -> ExpressionError:
        """Return an error that points at ``span``, by default the call's name."""
        span = span or self.span
        return ExpressionError(reason, self.text, span.start, span.stop)


def parse(text: str) -> Call:
    """Parse a call expression.

    Args:
        text: For example ``"uniform(num_negatives=64)"``.

    Raises:
        TypeError: If ``text`` is no string.
        ExpressionError: If it is not a call of literals and calls.
    """
    if not isinstance(text, str):
        raise TypeError(f"an expression must be a string, got {type(text).__name__}")
    # One line, so that a caret can stand under it; what strings hold stays as it is.
    text = re.sub(r"[\r\n]+", " ", text.strip())
    if len(text) > LONGEST:
        raise ExpressionError(
            f"the expression has {len(text)} characters, more than {LONGEST}; long lists belong in "
            "a file",
            text[:_SHOWN],
        )
    if not text:
        raise ExpressionError("the expression is empty; write a call such as in_batch()", text)
    if "\0" in text:
        at = text.index("\0")
        raise ExpressionError("malformed expression: it holds a null byte", text, at, at + 1)
    try:
        return _call(ast.parse(text, mode="eval").body, text)
    except ExpressionError:
        raise
    except SyntaxError as error:
        at = min(max((error.offset or 1) - 1, 0), len(text))
        raise ExpressionError(f"malformed expression: {error.msg}", text, at, at + 1) from None
    except RecursionError:
        raise ExpressionError("the expression is nested too deeply", text) from None
    except (ValueError, MemoryError) as error:
        raise ExpressionError(f"unreadable expression: {error}", text) from None


def short(name: str) -> str:
    """Return a name as errors show it: its beginning if it is long."""
    return name if len(name) <= _NAME else f"{name[:_NAME]}…"


def _window(text: str, start: int, stop: int) -> tuple[str, int, int]:
    """Cut a long text to what stands around the caret, and move the caret along."""
    if len(text) <= _SHOWN:
        return text, start, stop
    first = max(0, min(start - _SHOWN // 4, len(text) - _SHOWN))
    last = min(first + _SHOWN, len(text))
    before, behind = "… " if first else "", " …" if last < len(text) else ""
    moved = len(before) - first
    stop = max(start + 1, min(stop, last))
    return before + text[first:last] + behind, start + moved, stop + moved


def _call(node: ast.expr, text: str) -> Call:
    if isinstance(node, ast.Name):
        raise _error(f"expected a call; write {short(node.id)}()", node, text)
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise _error("expected a call of a plain name, such as in_batch()", node, text)
    arguments, written = [], []
    for value in node.args:
        argument = Argument(None, _value(value, text), _span(value, text))
        arguments.append(argument)
        written.append(_canonical(argument, value))
    seen: set[str] = set()
    for keyword in node.keywords:
        if keyword.arg is None:
            raise _error("** is not allowed; write the arguments out", keyword, text)
        start = _span(keyword, text).start
        name = Span(start, start + len(keyword.arg))
        if keyword.arg in seen:
            reason = f"{short(keyword.arg)} is given twice"
            raise ExpressionError(reason, text, name.start, name.stop)
        seen.add(keyword.arg)
        argument = Argument(keyword.arg, _value(keyword.value, text), name)
        arguments.append(argument)
        written.append(f"{keyword.arg}={_canonical(argument, keyword.value)}")
    canonical = f"{node.func.id}({', '.join(written)})"
    return Call(text, node.func.id, tuple(arguments), _span(node.func, text), canonical)


def _canonical(argument: Argument, node: ast.expr) -> str:
    """Return a value as Python would print it; each call is printed once, however deep it is."""
    value = argument.value
    return value.canonical if isinstance(value, Call) else ast.unparse(node)


def _value(node: ast.expr, text: str) -> Any:
    return _call(node, text) if isinstance(node, ast.Call) else _literal(node, text)


def _literal(node: ast.expr, text: str) -> Any:
    if isinstance(node, (ast.List, ast.Tuple)):
        items = [_literal(item, text) for item in node.elts]
        return items if isinstance(node, ast.List) else tuple(items)
    with contextlib.suppress(ValueError, TypeError):
        value = ast.literal_eval(node)
        # Python's literals are more: bytes, complex numbers, dictionaries, sets and `...`.
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
    what = (
        f"quote it ('{short(node.id)}') or call it ({short(node.id)}())"
        if isinstance(node, ast.Name)
        else "only numbers, strings, True, False, None, lists of them and calls are allowed"
    )
    raise _error(f"not a literal; {what}", node, text)


def _span(node: ast.expr | ast.keyword, text: str) -> Span:
    # ast counts UTF-8 bytes; carets are set by character.
    raw = text.encode()
    end = node.end_col_offset if node.end_col_offset is not None else len(raw)
    return Span(len(raw[: node.col_offset].decode()), len(raw[:end].decode()))


def _error(reason: str, node: ast.expr | ast.keyword, text: str) -> ExpressionError:
    span = _span(node, text)
    return ExpressionError(reason, text, span.start, span.stop)
