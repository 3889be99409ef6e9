"""The house as its imports make it: rooms, arrows, circles, and three walks through the code.

    python tools/architecture.py            # says what is wrong; exit status 1 if anything is
    python tools/architecture.py --write    # also draws docs/architecture.md anew
    python tools/architecture.py --sizes    # also says how many lines each room has

Every import counts: inside functions and for type checkers alone, too. `ROOMS` lists the rooms from
the ground up; an import may only go down, or stay in its room, and no files may import each other
in a circle. The walks name functions; each must exist and call the next.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = (ROOT / "src", ROOT / "benchmarks")
"""Folders with packages called longrec or longrec_...; the second has that of `longrec bench`."""
PAGE = ROOT / "docs" / "architecture.md"

ROOMS = (
    "core",
    "config",
    "data",
    "simulator",
    "ops",
    "mixers",
    "models",
    "inference",
    "artifact",
    "retrieval",
    "evaluation",
    "training",
    "serving/stores",
    "serving/records",
    "serving/stream",
    "serving/maintenance",
    "serving/http",
    "ingest",
    "export",
    "recommender",
    "runs",
    "cluster",
    "checks",
    "comparison",
    "tuning",
    "longrec_bench",
    "cli",
    "client",
    "longrec",
)
"""From the ground up. "longrec" is the package itself: its public names."""


@dataclass(frozen=True)
class Walk:
    """A path through the code: functions as "room/file.py:name", each of which calls the next.

    A step that starts with "* " is where somebody from outside comes in; one with "> " is called by
    the caller of the step before it.
    """

    title: str
    steps: tuple[str, ...]


@dataclass(frozen=True)
class House:
    """Files by module name, their imports of each other, and the room each stands in."""

    files: dict[str, Path]
    imports: dict[str, set[str]]

    def room(self, module: str) -> str:
        """The room of a module: the longest one of `ROOMS` that its path begins with."""
        path = module.removeprefix("longrec.").replace(".", "/")
        fitting = [room for room in ROOMS if path == room or path.startswith(f"{room}/")]
        if not fitting:
            return "longrec" if module in ("longrec", "longrec.__main__", "longrec.serving") else ""
        return max(fitting, key=len)


def read_house(*sources: Path) -> House:
    """Read the imports of every file of the packages in some folders, `SOURCES` by default."""
    files = {}
    for source in sources or SOURCES:
        for path in sorted(source.glob("longrec*/**/*.py")):
            parts = path.relative_to(source).with_suffix("").parts
            files[".".join(parts).removesuffix(".__init__")] = path
    imports = {module: set(_imported(path, files)) - {module} for module, path in files.items()}
    return House(files, imports)


def _imported(path: Path, files: dict[str, Path]) -> Iterator[str]:
    """Modules of the house that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in files)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise SystemExit(f"{path}: relative imports are not followed; write the full name")
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if name in files:
                    yield name
                elif node.module in files:
                    yield node.module


def lines_of(house: House, room: str) -> int:
    """Lines of a room's files."""
    files = [path for module, path in house.files.items() if house.room(module) == room]
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other by imports (Tarjan's strong components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in sorted(imports[module]):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in sorted(imports):
        if module not in index:
            visit(module)
    return found


def arrows(house: House) -> dict[str, set[str]]:
    """Which rooms each room imports."""
    found: dict[str, set[str]] = {room: set() for room in ROOMS}
    for module, others in house.imports.items():
        room = house.room(module)
        found[room] |= {house.room(other) for other in others} - {room}
    return found


def problems(house: House) -> list[str]:
    """What breaks the rules, a line each."""
    found = [f"{module} stands in no room" for module in house.files if not house.room(module)]
    if found:
        return found
    for module, others in sorted(house.imports.items()):
        floor = ROOMS.index(house.room(module))
        found += [
            f"{module} imports {other}, which stands above it"
            for other in sorted(others)
            if ROOMS.index(house.room(other)) > floor
        ]
    found += [f"circle: {', '.join(group)}" for group in circles(house.imports)]
    for walk in WALKS:
        found += broken_steps(house, walk)
    return found


def broken_steps(house: House, walk: Walk) -> list[str]:
    """Steps of a walk that do not exist, or that the step before does not call."""
    found, caller, last = [], "", ""
    for step in walk.steps:
        mark, name = (step[0], step[2:]) if step[1] == " " else ("", step)
        if definition(house, name) is None:
            found.append(f"{walk.title}: there is no {name}")
            continue
        if mark != ">":
            caller = "" if mark == "*" else last
        called = name.rpartition(":")[2].rpartition(".")[2]
        if caller and called not in names_in(definition(house, caller)):
            found.append(f"{walk.title}: {caller} does not call {called}")
        last = name
    return found


def definition(house: House, step: str) -> ast.AST | None:
    """The function or class "room/file.py:Class.method" of a step, or None."""
    file, _, names = step.partition(":")
    module = file.removesuffix(".py").replace("/", ".")
    path = house.files.get(f"longrec.{module}") or house.files.get(module)
    if path is None:
        return None
    node: ast.AST | None = ast.parse(path.read_text(encoding="utf-8"))
    for name in names.split("."):
        inside = [] if node is None else ast.walk(node)
        node = next((one for one in inside if getattr(one, "name", None) == name), None)
    return node


def names_in(node: ast.AST | None) -> set[str]:
    """All names that stand in a piece of code; of `a.b` both."""
    found = set()
    for one in [] if node is None else ast.walk(node):
        if isinstance(one, ast.Name):
            found.add(one.id)
        elif isinstance(one, ast.Attribute):
            found.add(one.attr)
    return found


def summary(node: ast.AST | None) -> str:
    """The first line of a docstring."""
    kinds = ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    text = ast.get_docstring(node) if isinstance(node, kinds) else None
    return (text or "").partition("\n")[0]


def draw(house: House) -> str:
    """The page docs/architecture.md."""
    lines = [
        "# The house",
        "",
        "Drawn from the code by `python tools/architecture.py --write`; a test holds them equal.",
        "Imports go down only, those inside functions and for types included, and no files import",
        "each other in a circle.",
        "",
        "```mermaid",
        "flowchart TD",
    ]
    reached = arrows(house)
    for room in reversed(ROOMS):
        lines += [f"    {_node(room)} --> {_node(other)}" for other in _direct(room, reached)]
    lines += [
        "```",
        "",
        "An arrow is drawn where no other way down leads to the same room; the table has all.",
        "",
        "| room | what it is | files | imports |",
        "|---|---|---|---|",
    ]
    for room in reversed(ROOMS):
        modules = [module for module in house.files if house.room(module) == room]
        below = ", ".join(other for other in ROOMS if other in reached[room]) or "nothing"
        lines.append(f"| `{room}` | {_about(house, room)} | {len(modules)} | {below} |")
    total = sum(map(len, reached.values()))
    lines += [
        "",
        f"{len(ROOMS)} rooms, {len(house.files)} files, {total} arrows between rooms.",
        "",
    ]
    for walk in WALKS:
        lines += [f"## {walk.title}", ""]
        for number, step in enumerate(walk.steps, 1):
            name = step.removeprefix("* ").removeprefix("> ")
            words = summary(definition(house, name))
            lines.append(f"{number}. `{name}`" + (f": {words}" if words else ""))
        lines.append("")
    return "\n".join(lines)


def _node(room: str) -> str:
    return room.replace("/", "_") + f"[{room}]"


def _about(house: House, room: str) -> str:
    """The first line of a room's docstring."""
    name = room.replace("/", ".")
    module = name if name in house.files else f"longrec.{name}"
    return summary(ast.parse(house.files[module].read_text(encoding="utf-8")))


def _direct(room: str, reached: dict[str, set[str]]) -> list[str]:
    """Rooms below that no other room below leads to."""

    def below(one: str) -> set[str]:
        found, waiting = set[str](), [one]
        while waiting:
            new = reached[waiting.pop()] - found
            found |= new
            waiting += new
        return found

    indirect = {far for other in reached[room] for far in below(other)}
    return sorted(reached[room] - indirect)


WALKS = (
    Walk(
        "From a log to the loss",
        (
            "* data/read.py:read_events",
            "* data/prepare.py:prepare",
            "data/prepare.py:write_kept",
            "data/write.py:write_chunks",
            "* runs/train.py:train",
            "runs/carry_out.py:carry_out",
            "training/fit.py:fit",
            "training/fit.py:training_data",
            "> training/fit.py:_Fit",
            "training/objective.py:make_objective",
            "* training/fit.py:_Fit.run_epoch",
            "training/fit.py:_Fit.step",
            "training/windows.py:WindowReader.read",
            "models/common/sequence.py:SequenceModel.prefill",
            "* training/objective.py:_full",
            "training/losses.py:full_cross_entropy",
        ),
    ),
    Walk(
        "From an event to a recommendation",
        (
            "* recommender.py:Recommender.open_stream",
            "serving/stream/stream.py:Stream.open",
            "serving/stores/open.py:open_store",
            "* serving/stream/stream.py:Stream.observe",
            "serving/stream/stream.py:Stream._submit",
            "* serving/stream/writer.py:Writer.write",
            "serving/stream/writer.py:Writer._append",
            "serving/records/engine.py:Engine.advance",
            "> serving/stores/lmdb_store.py:LmdbStore.append",
            "serving/stores/lmdb_tables.py:OpenTables.append",
            "* serving/stream/stream.py:Stream.recommend",
            "* serving/stream/recommending.py:Ranker.recommend",
            "serving/stream/recommending.py:Ranker._recommend",
            "serving/stream/recommending.py:Ranker._search",
            "retrieval/exact.py:ExactIndex.search",
        ),
    ),
    Walk(
        "From a run's folder to an answer over HTTP",
        (
            "* serving/http/server.py:serve",
            "serving/http/server.py:_opened",
            "serving/http/service.py:open_stream",
            "serving/http/service.py:load_run",
            "artifact/artifact.py:Artifact.load",
            "artifact/folder.py:read_folder",
            "* serving/http/service.py:open_stream",
            "retrieval/index_cache.py:open_index",
            "> serving/stream/stream.py:Stream.open",
            "* serving/http/app.py:Server",
            "serving/http/service.py:ServedStream.rank",
        ),
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="draw docs/architecture.md anew")
    parser.add_argument("--sizes", action="store_true", help="print the lines of each room")
    asked = parser.parse_args()
    house = read_house()
    found = problems(house)
    for line in found:
        print(line)
    if found:
        return 1
    if asked.write:
        PAGE.write_text(draw(house), encoding="utf-8")
    for room in ROOMS if asked.sizes else ():
        print(f"{room:20} {lines_of(house, room):6,}")
    print(f"{len(house.files)} files in {len(ROOMS)} rooms: no circle, no arrow upwards")
    return 0


if __name__ == "__main__":
    sys.exit(main())
