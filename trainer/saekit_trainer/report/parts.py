"""Pieces of a page: tiles, tables, figures, code; all text is escaped here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape


def tiles(values: Mapping[str, tuple[str, str]]) -> str:
    """Large figures.

    Args:
        values: by their names: the figure, and a few small words after it.
    """
    cells = "".join(
        f'<div class="tile"><dt>{escape(name)}</dt>'
        f"<dd>{escape(value)} <small>{escape(after)}</small></dd></div>"
        for name, (value, after) in values.items()
    )
    return f'<dl class="tiles">{cells}</dl>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: int = 0) -> str:
    """A table; `numbers` columns after the first are right-aligned."""

    def cells(tag: str, values: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{_kind(i, numbers)}>{escape(value)}</{tag}>" for i, value in enumerate(values)
        )

    top = f"<thead><tr>{cells('th', head)}</tr></thead>" if head else ""
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="table"><table>{top}<tbody>{body}</tbody></table></div>'


def figure(title: str, aside: str, svg: str) -> str:
    """A chart with its title, and a few words at its right."""
    return (
        f"<figure><figcaption><b>{escape(title)}</b><span>{escape(aside)}</span></figcaption>"
        f"{svg}</figure>"
    )


def code(text: str) -> str:
    """Something to paste."""
    return f"<pre><code>{escape(text)}</code></pre>"


def folded(summary: str, html: str) -> str:
    """Something that is opened by those who want it."""
    return f"<details><summary>{escape(summary)}</summary>{html}</details>"


def _kind(column: int, numbers: int) -> str:
    if 0 < column <= numbers:
        return ' class="n"'
    return ' class="what"' if column > numbers > 0 else ""
