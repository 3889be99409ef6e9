"""The logs of the zoo: simulated near and far evidence, public logs from a folder, and any other.

A log is opened once and kept as histories in the work folder. Of a simulated one the best that is
attainable is known, and stands beside what models reach.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longrec.comparison.attainable import attainable
from longrec.core.errors import UsageError
from longrec.core.files import write_file
from longrec.data.histories import Histories, open_histories
from longrec.data.prepare import prepare
from longrec.data.read import read_events
from longrec.data.splits import leave_one_out
from longrec.evaluation.metrics import METRICS
from longrec.evaluation.report.contents import ReportRow
from longrec.evaluation.summary import READINGS
from longrec.simulator.simulate import Simulation, SimulationConfig, simulate

WINDOW = 200
"""What the windowed models of the zoo read: a bound of theirs is told of simulated logs."""
SIMULATED: dict[str, dict[str, Any]] = {
    "near": {"evidence_distance": 0},
    "far": {"evidence_distance": 200, "mean_length": 400, "users": 700},
}
"""Settings of the simulator: what is needed lies in the last events, or 200 events back."""
FILES = {
    "beauty": "s3rec_beauty.parquet",
    "ml1m": "ml1m.parquet",
    "foodcom": "foodcom_ts.parquet",
    "globo": "globo_news.parquet",
}
"""Files of the folder of data: each has a column `position` that orders a user's events."""
FIRST = ("near", "far", "beauty")
NAME = r"[A-Za-z0-9_][\w-]*"
QUOTED = tuple(reading + f"{name}@10" for reading in READINGS for name in METRICS)
"""What is told of bounds."""


@dataclass(frozen=True, eq=False)
class Log:
    """A log by its name, its histories, and what is said of it beside every table.

    `facts` are plain values without paths: how it was made, its size, its fingerprint, and
    "bounds", what is attainable, where that is known.
    """

    name: str
    histories: Histories
    facts: dict[str, Any]


def check_names(logs: Sequence[str]) -> None:
    """Raise UsageError for a name that two logs have, or of which no folder can be made."""
    names = [text.partition("=")[0] for text in logs]
    for place, name in enumerate(names):
        if not re.fullmatch(NAME, name):
            raise UsageError(
                f"the log {logs[place]!r} has the name {name!r}, which folders are named by: make "
                "it of letters, digits, _ and -, as in mine=histories"
            )
        if name in names[:place]:
            raise UsageError(f"two logs have the name {name!r}: give each a name of its own")


def open_log(text: str, work: Path, data: Path) -> Log:
    """A log of the lists above, or NAME=FOLDER with prepared histories.

    Parameters
    ----------
    text : what the command line names.
    work : folder that keeps histories and bounds.
    data : folder of the public logs' files.

    Raises
    ------
    UsageError
        For an unknown name, or a file that is not there.
    """
    name, equals, path = text.partition("=")
    if equals:
        return _described(name, open_histories(path), "prepared histories", [])
    folder = work / "histories" / name
    if name in SIMULATED:
        return _simulated(name, folder)
    if name not in FILES:
        known = ", ".join([*SIMULATED, *FILES])
        raise UsageError(f"there is no log {name!r}: choose {known}, or NAME=FOLDER of histories")
    source = data / FILES[name]
    if folder.exists():
        histories = open_histories(folder)
    elif source.is_file():
        events = read_events(source, order="position")
        histories = prepare(events, folder)
    else:
        raise UsageError(f"{source} is not there: name the folder of the logs by --data")
    return _described(name, histories, f"{FILES[name]}, order by position", [])


def _simulated(name: str, folder: Path) -> Log:
    settings = SIMULATED[name]
    made = ", ".join(f"{key} {value}" for key, value in settings.items())
    kept = folder.parent / f"{name}-bounds.json"
    if folder.exists() and kept.is_file():
        bounds = json.loads(kept.read_text(encoding="utf-8"))
        return _described(name, open_histories(folder), f"simulated: {made}", bounds)
    simulation = simulate(SimulationConfig(**settings))
    histories = open_histories(folder) if folder.exists() else simulation.to_histories(folder)
    bounds = [_bound(row) for row in bounds_of(simulation, histories)]
    write_file(kept, json.dumps(bounds))
    return _described(name, histories, f"simulated: {made}", bounds)


def bounds_of(simulation: Simulation, histories: Histories) -> Sequence[ReportRow]:
    """What the best model reaches with the last `WINDOW` events, and with all."""
    return attainable(simulation, histories, leave_one_out(histories), WINDOW)


def _bound(row: ReportRow) -> dict[str, Any]:
    metrics = {key: row.metrics[key] for key in QUOTED}
    return {"name": row.name, "kind": row.kind, "metrics": metrics}


def _described(name: str, histories: Histories, made: str, bounds: list[dict[str, Any]]) -> Log:
    lengths = histories.offsets[1:] - histories.offsets[:-1]
    facts = {
        **{"log": name, "made": made, "users": histories.n_users, "items": histories.n_items},
        **{"events": histories.n_events, "longest": int(lengths.max(initial=0))},
        **{"fingerprint": histories.fingerprint, "bounds": bounds},
    }
    return Log(name, histories, facts)
