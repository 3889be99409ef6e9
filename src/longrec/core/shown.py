"""How values of longrec show themselves: in a line of text, and in a notebook as plain tables.

Tables have no colours of their own, so that light and dark notebooks draw them alike, and every
text in them is escaped: ids and file names come from logs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from longrec.core.arguments import check_path
from longrec.core.files import write_file
from longrec.core.format import number

INK = "#24292f"
"""Of a picture in a file of its own, which has no page to take its colour from."""
_LEFT, _RIGHT = 'style="text-align:left"', 'style="text-align:right"'


def html_table(title: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table with a title above it; numbers stand to the right, floats with four digits."""
    heads = "".join(f"<th {_LEFT}>{escape(name)}</th>" for name in head)
    lines = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    top = f"<thead><tr>{heads}</tr></thead>" if any(head) else ""
    return f"{html_text(title, 'b')}<table>{top}<tbody>{lines}</tbody></table>"


def html_facts(title: str, facts: Mapping[str, object]) -> str:
    """Names and values, a row each; those without a value are left out."""
    shown = [(name, value) for name, value in facts.items() if value not in (None, "")]
    return html_table(title, ("", ""), [(name, number(value)) for name, value in shown])


def html_text(text: str, tag: str = "p") -> str:
    """Text as an element of its own."""
    return f"<div><{tag}>{escape(text)}</{tag}></div>" if text else ""


def _cell(value: object) -> str:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    text = f"{value:.4f}" if isinstance(value, float) else number(value)
    return f"<td {_RIGHT if numeric else _LEFT}>{escape(text)}</td>"


@dataclass(frozen=True)
class Picture:
    """A drawing, which shows itself in a notebook.

    Attributes
    ----------
    title : what it shows, in words.
    svg : its `<svg>` element; lines and letters have the page's text colour.
    """

    title: str
    svg: str

    def save(self, path: str | Path) -> Path:
        """Write it as an SVG file."""
        path = check_path("path", path, "the path of an .svg file")
        write_file(path, self.svg.replace("<svg ", f'<svg color="{INK}" ', 1))
        return path

    def __repr__(self) -> str:
        return f"Picture({self.title})"

    def _repr_html_(self) -> str:
        return f'{html_text(self.title, "b")}<div style="max-width:60em">{self.svg}</div>'
