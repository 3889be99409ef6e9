"""What our server takes of uvicorn's inside is there, so that a uvicorn that moved is named.

uvicorn promises nothing about it. A subclass whose overridden method is called no more would fail
in silence: connections that take for ever, or signals that are not ours.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http import httptools_impl

import longrec.serving.http as package

PARTS = {"cycle": httptools_impl.RequestResponseCycle}
"""Attributes of uvicorn's classes that we look into, and their types."""
OURS = {"let_go", "on_chunk_header", "stop"}
"""Methods that uvicorn has not: our own, and what httptools calls of a protocol that has it."""
LEAST = {"HttpServer", "Limited"}


def subclasses() -> Iterator[tuple[ModuleType, ast.ClassDef, type[Any]]]:
    """Our classes whose base is one of uvicorn's, wherever in the package they are defined."""
    for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        module = importlib.import_module(found.name)
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.ClassDef):
                for base in node.bases:
                    name = ast.unparse(base)
                    of = _resolved(module, name)
                    if inspect.isclass(of) and of.__module__.startswith("uvicorn"):
                        yield module, node, of


def _resolved(module: ModuleType, name: str) -> object:
    found: object = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


CLASSES = list(subclasses())


def attributes(cls: type[Any]) -> set[str]:
    """What objects of a class have: what it defines, and what its methods assign to `self`."""
    names = set(dir(cls))
    for base in cls.__mro__[:-1]:
        if base.__module__.startswith("uvicorn"):
            names |= set(re.findall(r"\bself\.(\w+)\b[^=\n(]*=[^=]", inspect.getsource(base)))
    return names


def defined(node: ast.ClassDef) -> set[str]:
    """What our class defines, and assigns to `self`."""
    found = {
        one.name for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    for one in ast.walk(node):
        if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store):
            found.add(one.id)
        if isinstance(one, ast.Attribute) and isinstance(one.ctx, ast.Store):
            found.add(one.attr)
    return found


def moved(of: type[Any], name: str, ours: str) -> str:
    return (
        f"uvicorn {uvicorn.__version__} has no {of.__name__}.{name} any more, on which {ours} "
        "rests: look where it went, and mend that (or put it into OURS here)"
    )


def test_both_subclasses_are_found() -> None:
    assert {node.name for _, node, _ in CLASSES} >= LEAST


@pytest.mark.parametrize(
    ("module", "node", "of"), CLASSES, ids=[node.name for _, node, _ in CLASSES]
)
def test_what_is_overridden_and_used_of_uvicorn_is_there(
    module: ModuleType, node: ast.ClassDef, of: type[Any]
) -> None:
    ours, theirs = f"{module.__name__}.{node.name}", attributes(of)
    for method in node.body:
        if not isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if method.name.startswith("_"):
            assert method.name == "__init__" or method.name not in theirs, (
                f"uvicorn {uvicorn.__version__} has a {of.__name__}.{method.name} of its own now, "
                f"which {ours} would override: rename ours"
            )
            continue
        if method.name in OURS:
            continue
        assert hasattr(of, method.name), moved(of, method.name, ours)
        wanted = list(inspect.signature(getattr(of, method.name)).parameters)
        assert [one.arg for one in method.args.args] == wanted, (
            f"uvicorn {uvicorn.__version__} calls {of.__name__}.{method.name} with {wanted}: give "
            f"{ours}.{method.name} the same parameters"
        )
    own = defined(node)
    for one in ast.walk(node):
        if not isinstance(one, ast.Attribute):
            continue
        before = ast.unparse(one.value)
        if before == "super()" or (before == "self" and one.attr not in own):
            assert one.attr in theirs, moved(of, one.attr, ours)
        part = PARTS.get(before.removeprefix("self."))
        if part is not None:
            assert one.attr in attributes(part), moved(part, one.attr, ours)


@pytest.mark.parametrize("name", ["started", "should_exit", "force_exit", "serve"])
def test_what_the_process_asks_of_the_server_is_there(name: str) -> None:
    assert name in attributes(uvicorn.Server), moved(uvicorn.Server, name, "serving.http.server")


def test_one_that_moved_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    module, node, of = next(one for one in CLASSES if one[1].name == "HttpServer")
    monkeypatch.delattr(of, "capture_signals")
    with pytest.raises(AssertionError, match=r"has no Server\.capture_signals any more"):
        test_what_is_overridden_and_used_of_uvicorn_is_there(module, node, of)
