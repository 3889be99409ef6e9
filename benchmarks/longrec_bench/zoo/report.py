"""The zoo's table for people: Markdown and a picture, from cells alone."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from longrec.comparison.read_runs import read_json
from longrec.core.files import write_file
from longrec.core.format import number, size
from longrec.core.machine import machine_text, versions_text
from longrec.evaluation.report.drawing import COLOURS, INK, WIDE, on_white
from longrec.evaluation.summary import LEADING, SERVED, UNFILTERED, label
from longrec_bench.measurement import Row
from longrec_bench.zoo.cells import Cell, read_cells, read_pairs

QUOTED = (SERVED + "hr@10", "ndcg@10", "hr@10", UNFILTERED + "ndcg@10", UNFILTERED + "hr@10")
"""Metrics beside the leading one."""
IMPROVING = "still improving"
ROW = 0.21  # inches of a model in the picture


def write_report(out: Path) -> list[Path]:
    """Write README.md and accuracy.png beside the cells; -> what was written."""
    logs = read_cells(out)
    written = [out / "README.md"]
    write_file(written[0], as_markdown(out, logs))
    rows = {log: rows_of(cells) for log, cells in logs.items()}
    if any(rows.values()):
        facts = {log: read_json(out / log / "log.json") for log in rows}
        tall = 1.2 + ROW * max(map(len, rows.values()))
        drawn = on_white(lambda figure: _draw(figure, rows, facts), tall, WIDE)
        written.append(out / "accuracy.png")
        write_file(written[1], drawn["png"])
    return written


def rows_of(cells: Sequence[Cell]) -> list[Row]:
    """A row per model and recipe, the best first, whether or not it was still improving.

    Metrics are means over seeds; the interval is that of one seed, and of more their range.
    """
    grouped: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        if "failed" not in cell:
            grouped.setdefault((cell["model"], cell["recipe"]), []).append(cell)
    rows = []
    for (model, recipe), own in grouped.items():
        metrics = {k: statistics.fmean(c["metrics"][k] for c in own) for k in (LEADING, *QUOTED)}
        values = [cell["metrics"][LEADING] for cell in own]
        counted = own[0]["ended"] == "counted"
        rows.append(
            {
                "name": model if recipe == "own" else f"{model} ({recipe})",
                "needed": own[0].get("needed", []),
                **{"model": model, "recipe": recipe, "seeds": len(own), "metrics": metrics},
                "interval": own[0]["intervals"][LEADING] if len(own) == 1 else _range(values),
                "improving": not all(cell["converged"] for cell in own),
                "counted": counted,
                **{k: statistics.fmean(c[k] for c in own) for k in ("epochs", "seconds")},
                **{key: own[0][key] for key in ("parameters", "kept_bytes", "keeps")},
            }
        )
    return sorted(rows, key=lambda row: (-row["metrics"][LEADING], row["name"]))


def marks(row: Row) -> str:
    """What a reader must know before comparing a row."""
    found = [IMPROVING] * row["improving"]
    return ", ".join([*found, *row["needed"]])


def as_markdown(out: Path, logs: dict[str, list[Cell]]) -> str:
    """The whole page."""
    parts = [_HEAD, "![accuracy of every model by log](accuracy.png)\n"] if logs else [_HEAD]
    for log, cells in logs.items():
        parts += _log_part(read_json(out / log / "log.json"), cells, read_pairs(out, log))
    return "\n".join(parts)


_HEAD = f"""# The zoo: every model under one protocol

Written by `longrec bench zoo`; change nothing by hand. Each cell is a JSON file beside this page, with its settings, seed, commit, machine and time.

Rows are in the order of {label(LEADING)}, over all items; seen items are left out or recommended as validation chose. Of a row that
was *{IMPROVING}* when its minutes ended, the number says what so many minutes give, and not what the model can reach; it takes part in no test.
Minutes are of one core's time (clock=processor), which others on the machine do not shorten.
In brackets the 95% interval over users; of several seeds, their least and most.
"""  # noqa: E501


def _log_part(facts: Row, cells: list[Cell], pairs: list[dict[str, Any]]) -> list[str]:
    parts = [f"## {facts['log']}\n", _about(facts, cells)]
    lines = []
    for place, row in enumerate(rows_of(cells), 1):
        minutes = "" if row["counted"] else f"{row['epochs']:g}, {row['seconds'] / 60:.1f}"
        keeps = row["keeps"] if row["kept_bytes"] is None else size(row["kept_bytes"])
        low, high = row["interval"]
        lines.append(
            [
                str(place),
                f"`{row['model']}`" + ("" if row["recipe"] == "own" else f", {row['recipe']}"),
                f"{row['metrics'][LEADING]:.4f} ({low:.4f} to {high:.4f})",
                *(f"{row['metrics'][key]:.4f}" for key in QUOTED),
                minutes,
                keeps,
                marks(row),
            ]
        )
    for bound in facts["bounds"]:
        values = [f"{bound['metrics'][key]:.4f}" for key in (LEADING, *QUOTED)]
        lines.append(["", f"*{bound['name']}*", *values, "", "", bound["kind"]])
    head = ["#", "model", label(LEADING), *map(label, QUOTED)]
    parts.append(_table([*head, "epochs, minutes", "kept of a user", ""], lines))
    failed = [cell for cell in cells if "failed" in cell]
    if failed:
        words = [f"- `{cell['model']}` ({cell['recipe']}): {cell['failed']}" for cell in failed]
        parts.append("Without a number:\n\n" + "\n".join(words) + "\n")
    for tests in pairs:
        parts.append(_PAIRS.format(tests["recipe"]))
        lines = _pairs(tests["pairs"])
        parts.append(_table(["pair", "difference (95%)", "p, corrected"], lines))
    return parts


_PAIRS = f"""Paired tests over the same targets, {label(LEADING)}, recipe {{}}; p is corrected
for all of a log (Holm), and left out where one of the two was still improving.
"""


def _pairs(pairs: list[dict[str, Any]]) -> list[list[str]]:
    return [
        [
            f"`{p['a']}` minus `{p['b']}`",
            f"{p['mean']:+.4f} ({p['low']:+.4f} to {p['high']:+.4f})",
            "" if p["p_holm"] is None else f"{p['p_holm']:.3f}",
        ]
        for p in pairs
    ]


def _about(facts: Row, cells: list[Cell]) -> str:
    """The log, the budget, and where the cells were made."""
    sizes = [f"{number(facts[key])} {key}" for key in ("users", "items", "events")]
    text = f"{facts['made']}: {', '.join(sizes)}, the longest history {number(facts['longest'])}; "
    text += f"at most {facts['minutes']:g} minutes of training on one thread for each model"
    settings = [f"{key}={value}" for key, value in facts.get("settings", {}).items()]
    text += f", all with {', '.join(settings)}.\n" if settings else ".\n"
    machines = {machine_text(cell["machine"]) for cell in cells}
    used = {versions_text(cell["versions"]) for cell in cells}
    commits = {cell["commit"] or "a release" for cell in cells}
    days = sorted(cell["started"][:10] for cell in cells)
    if cells:
        when = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
        text += f"Made on {'; '.join(sorted(machines))}; {'; '.join(sorted(used))}; commit "
        text += f"{', '.join(sorted(commits))}; {when}.\n"
    return text


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _range(values: Sequence[float]) -> list[float]:
    return [min(values), max(values)]


def _draw(figure: Figure, rows: dict[str, list[Row]], facts: dict[str, Row]) -> None:
    """A panel for each log: a point per row with its interval, hollow where it still improved."""
    names = sorted({row["name"] for own in rows.values() for row in own})
    colours = {name: COLOURS[n % len(COLOURS)] for n, name in enumerate(names)}
    panels = figure.subplots(1, len(rows), squeeze=False)[0]
    for axes, (log, own) in zip(panels, rows.items(), strict=True):
        axes.set(title=log, xlabel=label(LEADING), ylim=(max(len(own), 1) - 0.5, -0.5))
        axes.set_yticks(range(len(own)), [row["name"] for row in own])
        for place, row in enumerate(own):
            colour, value = colours[row["name"]], row["metrics"][LEADING]
            axes.plot(row["interval"], [place, place], color=colour, linewidth=1.2)
            face = "white" if row["improving"] else colour
            axes.plot([value], [place], "o", color=colour, markerfacecolor=face)
        for bound in facts[log]["bounds"]:
            dash = "--" if bound["kind"] == "ceiling" else ":"
            axes.axvline(bound["metrics"][LEADING], color=INK, linestyle=dash, linewidth=1)
    figure.suptitle("hollow: still improving; lines: what is attainable", fontsize=8.5)
