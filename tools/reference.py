"""The reference of the public names, from their signatures and docstrings.

    python tools/reference.py            # is docs/reference.md up to date? exit status 1 if not
    python tools/reference.py --write    # writes it anew

Nothing is imported: the sources are read, so that the page is the same whatever is installed.
`SECTIONS` lists the names. Of a class its public members are shown that have a docstring; what it
has from another class of longrec is shown there.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
PAGE = ROOT / "docs" / "reference.md"
INTRO = """\
# Reference

The names to build on, with what their docstrings say; `python tools/reference.py --write` writes
this page. Names that begin with an underscore, and modules that are not here, may change in any
release. The command line is in [cli](cli.md), HTTP in [serving](serving.md). Shape letters: B
histories, T events, D width, W numbers of h, R vectors of a user, C candidates.
"""

SECTIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "The package `longrec`",
        "`import longrec`, then `longrec.train` and so on.",
        (
            "data/read:read_events",
            "data/prepare:prepare",
            "data/histories:open_histories",
            "data/histories:Histories",
            "runs/train:train",
            "runs/refit:refit",
            "training/progress:Progress",
            "runs/loggers:TensorBoardLogger",
            "runs/loggers:MLflowLogger",
            "runs/evaluate:evaluate",
            "comparison/compare:compare",
            "tuning/tune:tune",
            "comparison/existing:report",
            "recommender:load",
            "recommender:Recommender",
            "core/errors:LongrecError",
            "core/errors:UsageError",
            "core/errors:DataError",
        ),
    ),
    (
        "What they return",
        "",
        (
            "artifact/artifact:Artifact",
            "evaluation/summary:Metrics",
            "comparison/existing:Reported",
            "tuning/results:Tuning",
            "tuning/results:Gain",
            "inference/explain:Explanation",
            "serving/stream/stream:Stream",
        ),
    ),
    ("Settings of training", "", ("config/training:TrainConfig",)),
    (
        "Models of your own",
        "From `longrec.models`. [models](models.md) is the contract, "
        "[new-mechanism](new-mechanism.md) the tutorial.",
        (
            "models/common/registry:register_model",
            "models/common/registry:build_model",
            "models/common/base:Model",
            "models/common/base:CountingModel",
            "models/common/sequence:SequenceModel",
            "models/common/sequence:UserState",
            "models/common/sequence:ParameterGroup",
            "models/common/blocks:Block",
            "models/common/blocks:ResidualBlock",
            "models/common/blocks:FeedForwardBlock",
            "models/common/config:SequenceConfig",
            "models/common/config:FeedForwardConfig",
            "models/common/config:AttentionConfig",
            "models/common/config:WindowedConfig",
        ),
    ),
    (
        "Mixers of your own",
        "From `longrec.mixers`. [mixers](mixers.md) says what every one must hold.",
        (
            "mixers/base:register_mixer",
            "mixers/base:Context",
            "mixers/base:Mixer",
            "mixers/base:StreamingMixer",
            "mixers/base:map_state",
        ),
    ),
    (
        "Scores",
        "",
        (
            "models/common/scorer:Scorer",
            "models/common/added_score:register_added_score",
            "models/common/added_score:AddedScore",
            "models/common/base:AddedRows",
        ),
    ),
    (
        "Checks",
        "What `longrec check-model MODULE` runs.",
        (
            "checks/run:check_module",
            "checks/run:check_model",
            "checks/run:check_mixer",
            "checks/run:Outcome",
            "checks/definitions:define",
            "checks/compare:CheckFailed",
        ),
    ),
)
"""Titles, a sentence, and names as "module:name"; a package's own names go by its `__all__`."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
RULE = re.compile(r"-{3,}$")
WIDTH = 88


def find(name: str) -> tuple[ast.ClassDef | Function, str]:
    """The definition of "module:name", and its full dotted name."""
    module, _, wanted = name.partition(":")
    path = SOURCE / "longrec" / f"{module}.py"
    if path.is_file():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | Function) and node.name == wanted:
                return node, f"longrec.{module.replace('/', '.')}.{wanted}"
    raise SystemExit(f"{path} has no {wanted}: mend SECTIONS in tools/reference.py")


def signature(node: Function, name: str, method: bool = False) -> str:
    """`name(argument: type = default, ...) -> type`, over several lines where it is long."""
    args, parts = node.args, []
    positional = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(positional) - len(args.defaults)) + list(args.defaults)
    static = any(ast.unparse(d) == "staticmethod" for d in node.decorator_list)
    for n, (arg, default) in enumerate(zip(positional, defaults, strict=True)):
        if not (method and not static and n == 0):  # self, cls
            parts.append(_argument(arg, default))
    if args.vararg is not None:
        parts.append("*" + _argument(args.vararg, None))
    elif args.kwonlyargs:
        parts.append("*")
    parts += [_argument(a, d) for a, d in zip(args.kwonlyargs, args.kw_defaults, strict=True)]
    if args.kwarg is not None:
        parts.append("**" + _argument(args.kwarg, None))
    returns = "" if node.returns is None else f" -> {ast.unparse(node.returns)}"
    return _called(name, parts, returns)


def _argument(arg: ast.arg, default: ast.expr | None) -> str:
    kind = "" if arg.annotation is None else f": {ast.unparse(arg.annotation)}"
    if default is None:
        return arg.arg + kind
    return f"{arg.arg}{kind}{' = ' if kind else '='}{ast.unparse(default)}"


def _called(name: str, parts: list[str], returns: str = "") -> str:
    line = f"{name}({', '.join(parts)}){returns}"
    if len(line) <= WIDTH or not parts:
        return line
    return "\n".join([f"{name}(", *(f"    {part}," for part in parts), f"){returns}"])


def constructor(node: ast.ClassDef) -> str:
    """How a class is called: by its __init__, by its fields, or by its name alone."""
    for inner in node.body:
        if isinstance(inner, Function) and inner.name == "__init__":
            return signature(inner, node.name, method=True).removesuffix(" -> None")
    fields = [ast.unparse(base) for base in node.bases]
    record = "NamedTuple" in fields or any(
        "dataclass" in ast.unparse(d) for d in node.decorator_list
    )
    parts = []
    for inner in node.body if record else ():
        if isinstance(inner, ast.AnnAssign) and "ClassVar" not in ast.unparse(inner.annotation):
            text = f"{ast.unparse(inner.target)}: {ast.unparse(inner.annotation)}"
            parts.append(text if inner.value is None else f"{text} = {ast.unparse(inner.value)}")
    return _called(node.name, parts) if parts else node.name


def rendered(docstring: str) -> Iterator[str]:
    """A docstring of numpy's form as Markdown: prose as it is, sections as lists."""
    lines = docstring.splitlines()
    listing = False
    item: list[str] = []
    for n, line in enumerate(lines):
        if RULE.match(line):
            continue
        if n + 1 < len(lines) and RULE.match(lines[n + 1]):
            yield from _item(item)
            item, listing = [], True
            yield from ("", f"*{line}*", "")
        elif not listing:
            yield line if line.startswith("    ") else _plain(line)
        elif line.startswith(" "):
            item.append(line.strip())
        elif line:
            yield from _item(item)
            item = [line]
    yield from _item(item)


def _item(lines: list[str]) -> Iterator[str]:
    """An entry of a list: its name as code, then its type and what is said of it."""
    if lines:
        name, colon, kind = lines[0].partition(" : ")
        rest = " ".join(part for part in (kind, *lines[1:]) if part)
        if colon and len(lines) > 1 and not kind.endswith((".", ";", ",")):
            rest = f"{kind}. {' '.join(lines[1:])}" if _is_type(kind) else rest
        code = ", ".join(f"`{part}`" for part in name.split(", ")) if colon else f"`{name}`"
        yield f"- {code}: {_plain(rest)}" if rest else f"- {code}"


def _is_type(text: str) -> bool:
    """Whether what follows a name is its type, "Tensor or None", rather than a sentence begun."""
    return bool(re.fullmatch(r"[\w.,\[\]{}\" |]+|\{.*\}", text)) and len(text) < 60


def _plain(text: str) -> str:
    """Prose whose angle brackets are no HTML; what is code stays."""
    pieces = text.split("`")
    return "`".join(
        piece if n % 2 else piece.replace("<", "&lt;").replace("*", r"\*")
        for n, piece in enumerate(pieces)
    )


def entry(name: str) -> Iterator[str]:
    """The lines of one name, its members included."""
    node, full = find(name)
    docstring = ast.get_docstring(node)
    if docstring is None:
        raise SystemExit(f"{full} has no docstring")
    yield from ("", f"### {node.name}", "", f"`{full}`", "")
    if isinstance(node, Function):
        yield from ("```python", signature(node, node.name), "```", "", *rendered(docstring))
        return
    bases = [ast.unparse(base) for base in node.bases]
    text = constructor(node)
    if bases:
        text += f"  # {'a' if len(bases) == 1 else 'of'} {', '.join(bases)}"
    yield from ("```python", text, "```", "", *rendered(docstring))
    for inner in node.body:
        if not isinstance(inner, Function) or inner.name.startswith("_"):
            continue
        words = ast.get_docstring(inner)
        if words is None:
            continue
        kinds = {ast.unparse(d).split(".")[-1] for d in inner.decorator_list}
        if kinds & {"setter", "deleter"}:
            continue
        yield from ("", f"#### {node.name}.{inner.name}", "")
        if kinds & {"property", "cached_property"}:
            kind = "" if inner.returns is None else f": {ast.unparse(inner.returns)}"
            yield from ("```python", f"{inner.name}{kind}", "```", "")
        else:
            yield from ("```python", signature(inner, inner.name, method=True), "```", "")
        yield from rendered(words)


def public_names() -> set[str]:
    """`__all__` of the package."""
    for node in ast.parse((SOURCE / "longrec" / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    raise SystemExit("longrec has no __all__")


def write() -> str:
    """The page."""
    listed = {name.partition(":")[2] for name in SECTIONS[0][2]}
    if listed != public_names():
        raise SystemExit(f"the first section and __all__ differ by {listed ^ public_names()}")
    lines = [INTRO, ""]
    for title, _, names in SECTIONS:
        links = (f"[`{short}`](#{short.lower()})" for short in (n.partition(":")[2] for n in names))
        lines.append(f"- {title}: {' · '.join(links)}")
    for title, words, names in SECTIONS:
        lines += ["", f"## {title}"] + (["", words] if words else [])
        for name in names:
            lines += entry(name)
    text = "\n".join(line.rstrip() for line in lines)
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def main(argv: list[str] | None = None) -> int:
    """Compare or write the page; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write docs/reference.md anew")
    text = write()
    if parser.parse_args(argv).write:
        PAGE.write_text(text, encoding="utf-8")
    if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        print("docs/reference.md differs from the docstrings: python tools/reference.py --write")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
