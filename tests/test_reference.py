"""docs/reference.md is what the docstrings say, and shows what it promises to."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

import reference


def test_the_page_is_what_the_docstrings_say() -> None:
    page = reference.PAGE.read_text(encoding="utf-8")
    assert page == reference.write(), "write it anew: python tools/reference.py --write"
    for name in reference.public_names():
        assert f"\n### {name}\n" in page


def test_a_docstring_becomes_lists_and_a_signature_lines() -> None:
    text = """Say it.

    Scores of h < 0 times *two*.

    Parameters
    ----------
    h : Tensor
        (n, W), what is
        known.
    **more
        Keys.

    Attributes
    ----------
    a, b : of one kind; c : not.

    Raises
    ------
    ValueError
        When wrong.
    """
    shown = "\n".join(reference.rendered(ast.get_docstring(_function(f'"""{text}"""'))))
    assert "h &lt; 0 times \\*two\\*" in shown
    assert "*Parameters*" in shown
    assert "- `h`: Tensor. (n, W), what is known.\n- `**more`: Keys." in shown
    assert "- `a`, `b`: of one kind; c : not." in shown
    assert "- `ValueError`: When wrong." in shown
    node = _function("pass", "self, a: int, *, b: str = 'x', **more: Any")
    assert reference.signature(node, "f", method=True) == "f(a: int, *, b: str = 'x', **more: Any)"


def _function(body: str, arguments: str = "") -> ast.FunctionDef:
    node = ast.parse(f"def f({arguments}):\n    {body}").body[0]
    assert isinstance(node, ast.FunctionDef)
    return node
