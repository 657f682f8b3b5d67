"""Tables of a page that are written by a script; each stands between two comments.

<!-- table: name -->
<!-- end of table -->
"""

from __future__ import annotations

import re
from collections.abc import Mapping

TABLES = re.compile(r"(<!-- table: (.*?) -->).*?(<!-- end of table -->)", re.DOTALL)
"""Finds beginning, name and end of each table."""


def with_tables(page: str, tables: Mapping[str, str]) -> str:
    """Return the page with its tables written anew.

    Args:
        page: In Markdown.
        tables: By their names, one for each that the page has.
    """

    def replaced(found: re.Match[str]) -> str:
        start, name, end = found.groups()
        return f"{start}\n\n{tables[name]}\n\n{end}"

    return TABLES.sub(replaced, page)
