"""Tables of docs that repeat what the code declares, or what was measured.

Declared are models, mixers and settings; measured are the cells of `longrec bench zoo` and what
`longrec bench cost` found, of which this repository keeps the aggregates.

    python tools/tables.py            # says which pages differ; exit status 1 if any does
    python tools/tables.py --write    # writes them anew

A table stands between <!-- table NAME --> and <!-- end of table -->, NAME being a key of `TABLES`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from longrec.config.border import describe_settings
from longrec.config.training import TrainConfig
from longrec.core.format import size
from longrec.models import MODELS, build_model
from longrec.runs.describe import describe_mixers, describe_models, values_of
from longrec.runs.folder import DEFAULT_MODEL

ROOT = Path(__file__).parents[1]
CELLS = ROOT / "benchmarks" / "zoo"
"""What `longrec bench zoo --out` gets."""
COSTS = ROOT / "benchmarks" / "cost" / "systems.json"
"""What `longrec bench cost --models all` found: found.json of its folder."""
PICTURE = "images/performance/systems-time.png"
"""Of docs: model-time.png of the same folder."""
LENGTHS = (200, 1024, 4096)
UNKNOWN = "| not measured yet |\n| --- |\n"
MARK = re.compile(r"(<!-- table ([\w-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def main() -> int:
    """Compare, or write; -> exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write the tables anew")
    write = parser.parse_args().write
    status = 0
    for page, text in pages():
        new = with_tables(text)
        if new != text and write:
            page.write_text(new, encoding="utf-8")
            print(f"wrote {page.relative_to(ROOT)}")
        elif new != text:
            print(f"{page.relative_to(ROOT)} is not what the code says: run with --write")
            status = 1
    return status


def pages() -> Iterator[tuple[Path, str]]:
    """Pages with tables, and their texts."""
    for page in sorted((ROOT / "docs").rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        if MARK.search(text):
            yield page, text


def with_tables(text: str) -> str:
    """A page's text with its tables as the code has them."""
    return MARK.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}{found[3]}", text)


def models_in_short() -> str:
    """What each model is, and its paper."""
    rows = [[_name(row), row["summary"], row["paper"] or ""] for row in _models()]
    return markdown(["name", "what", "paper"], rows)


def models_in_full(*names: str) -> str:
    """Every fact of some models, all of ours if none is named."""
    rows = [
        [
            _name(row),
            ", ".join(f"`{mixer}`" for mixer in row["mixers"]) or "none, counts",
            "no" if row["causal"] is False else "yes",
            f"`{row['targets']}`" if row["targets"] else "counts",
            _cost(row),
            row["streaming"] + (f" (exact: `{row['streams_as']}`)" if row["streams_as"] else ""),
            _kept(row),
        ]
        for row in _models()
        if not names or row["model"] in names
    ]
    head = ["name", "mixer", "causal", "`targets`", "cost", "streaming", "kept of a user"]
    return markdown(head, rows)


def mixers() -> str:
    """What each mixer is, costs and keeps."""
    rows = [
        [
            f"`{row['mixer']}`",
            row["summary"].rstrip("."),
            row["cost"],
            _state(row),
        ]
        for row in describe_mixers()
        if _is_ours(row["mixer"])
    ]
    return markdown(["name", "what", "cost", "state of a history at width 64"], rows)


def model_settings() -> str:
    """Settings of all models: each with the models that have it, where they say the same of it."""
    found: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for row in _models():
        for setting in describe_settings(MODELS[row["model"]].config_class):
            key = str(setting)
            found.setdefault(key, (setting, []))[1].append(f"`{row['model']}`")
    trained = [f"`{row['model']}`" for row in _models() if row["targets"]]
    rows = [
        [*_setting([setting]), "all but counting ones" if owners == trained else ", ".join(owners)]
        for setting, owners in sorted(found.values(), key=lambda one: -len(one[1]))
    ]
    return markdown(["setting", "default", "values", "meaning", "models"], rows)


def training_settings() -> str:
    """Settings of training; those that are explained together stand together."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for setting in describe_settings(TrainConfig):
        groups.setdefault(setting["meaning"], []).append(setting)
    assert sum(map(len, groups.values())) == len(asdict(TrainConfig()))
    rows = [_setting(group) for group in groups.values()]
    return markdown(["setting", "default", "values", "meaning"], rows)


def needs() -> str:
    """What each model needs, reads and keeps, with the page that tells of it."""
    pages, rows = system_pages(), []
    for row in _models():
        model = build_model(row["model"], MODELS[row["model"]].config_class(), 1)
        reads = ["times"] * model.reads_times + [f"column `{name}`" for name in model.reads_columns]
        reads += ["times, in training"] * getattr(model, "counts_times", False)
        reads += [f"`{name}` with `{how}`" for name, how in model.columns_by_setting.items()]
        page = pages.get(row["model"])
        rows.append(
            [
                _name(row) if page is None else f"[{_name(row)}]({page})",
                "counted" if row["targets"] is None else "trained",
                "any" if row["max_length"] is None else f"last {row['max_length']} events",
                _cost(row),
                row["streaming"],
                ", ".join(reads) or "items alone",
                _kept(row),
            ]
        )
    head = ["model", "how", "history", "cost", "stream", "reads", "kept of a user"]
    return markdown(head, rows)


def system_pages() -> dict[str, str]:
    """Where docs tell of a model: a heading of its name in docs/systems/, or a page of its own."""
    found = {}
    for page in sorted((ROOT / "docs" / "systems").glob("*.md")):
        for name in re.findall(r"^#+ `?([a-z0-9-]+)`?$", page.read_text("utf-8"), re.MULTILINE):
            if name in MODELS:
                found[name] = f"systems/{page.name}#{name}"
    for name in MODELS:
        own = name.removesuffix("-paper").removesuffix("-bidirectional")
        if (ROOT / "docs" / f"{own}.md").is_file():
            found.setdefault(name, f"{own}.md")
    return found


def accuracy() -> str:
    """Every model's leading metric on each log of the zoo, the best on the whole first."""
    from longrec_bench.zoo.cells import read_cells
    from longrec_bench.zoo.report import LEADING, rows_of

    logs = {log: rows_of(cells) for log, cells in read_cells(CELLS).items()}
    logs = {log: rows for log, rows in logs.items() if rows}
    if not logs:
        return UNKNOWN
    best = {log: rows[0]["metrics"][LEADING] for log, rows in logs.items()}
    texts: dict[str, dict[str, str]] = {}
    shares: dict[str, list[float]] = {}
    for log, rows in logs.items():
        for row in rows:
            value, (low, high) = row["metrics"][LEADING], row["interval"]
            signs = "*" * row["improving"]
            texts.setdefault(row["name"], {})[log] = f"{value:.4f}{signs} ({low:.4f} to {high:.4f})"
            shares.setdefault(row["name"], []).append(value / best[log] if best[log] else 0.0)
    order = sorted(texts, key=lambda name: (-sum(shares[name]) / len(logs), name))
    lines = [[f"`{name}`", *(texts[name].get(log, "") for log in logs)] for name in order]
    return markdown(["model", *logs], lines)


def costs() -> str:
    """A line for each model: times, memory, a step, the state."""
    from longrec_bench.tables import as_markdown, by_system

    if not COSTS.is_file():
        return UNKNOWN
    found = json.loads(COSTS.read_text("utf-8"))
    table = as_markdown(by_system(found["cells"], "model", LENGTHS))
    if (ROOT / "docs" / PICTURE).is_file():
        table += f"\n![time per history of every system, by its events]({PICTURE})\n"
    return table


TABLES: dict[str, Callable[[], str]] = {
    "models-in-short": models_in_short,
    "models": models_in_full,
    "elastic": lambda: models_in_full("elastic", "elastic-paper"),
    "hydrarec": lambda: models_in_full("hydrarec", "hydrarec-bidirectional"),
    "mixers": mixers,
    "model-settings": model_settings,
    "training-settings": training_settings,
    "needs": needs,
    "accuracy": accuracy,
    "costs": costs,
}


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown; bars inside cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines
    )


def _models() -> list[dict[str, Any]]:
    """Ours, the default one first."""
    ours = [row for row in describe_models() if row["plugin"] is None]
    return sorted(ours, key=lambda row: (row["model"] != DEFAULT_MODEL, row["model"]))


def _is_ours(mixer: str) -> bool:
    from longrec.mixers import MIXERS

    return MIXERS.is_own(mixer)


def _name(row: dict[str, Any]) -> str:
    return f"`{row['model']}`" + (" (default)" if row["model"] == DEFAULT_MODEL else "")


def _cost(row: dict[str, Any]) -> str:
    window = f", W = {row['max_length']}" if "W" in row["cost"] and row["max_length"] else ""
    return row["cost"] + window


def _kept(row: dict[str, Any]) -> str:
    """What of a user a stream keeps, or reads again."""
    if row["record_bytes"] is not None:
        return f"{size(row['record_bytes'])}, any length"
    if row["max_length"] is None:
        return "the history"
    return "the last event" if row["max_length"] == 1 else f"the last {row['max_length']} events"


def _state(row: dict[str, Any]) -> str:
    if row["state_bytes"] is not None:
        return size(row["state_bytes"])
    return "none of fixed size" if row["causal"] else "none, not causal"


def _setting(group: list[dict[str, Any]]) -> list[str]:
    """Cells of settings that share a meaning."""
    values = list(dict.fromkeys(values_of(setting) for setting in group))
    return [
        ", ".join(f"`{setting['key']}`" for setting in group),
        ", ".join(_plain(setting["default"]) for setting in group),
        "; ".join(values),
        group[0]["meaning"],
    ]


def _plain(default: object) -> str:
    """A default as a command line has it."""
    if isinstance(default, bool):
        return str(default).lower()
    return "none" if default is None else str(default)


if __name__ == "__main__":
    sys.exit(main())
