"""Whether two checkouts give the same numbers to the last bit: losses, metrics, ranks, lists.

    python benchmarks/bit_equal.py OLD NEW

Each checkout trains every registered model, and variants of them, with one seed and one thread on
the same made-up log, through the public names alone (`longrec.prepare`, `train`, `evaluate`,
`recommend`, `open_stream`), in a process of its own. What a change of the house must not change is
compared value by value; the first differences are printed, and the exit status says whether any.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

VARIANTS = {
    "elastic": [
        {},
        {"memory_slots": 64},
        {"forgetting": "time"},
        {"forgetting": "none"},
        {"loss": "sampled", "negatives": 16},
        {"loss": "gbce", "negatives": 16},
        {"loss": "bce", "negatives": 16},
        {"context": 12},
        {"targets": "last"},
    ],
    "sasrec": [{}, {"targets": "last"}],
    "bert4rec": [{}, {"targets": "last"}],
}
"""Settings of a model besides its defaults; of a model that is not named here the defaults."""
SHAPE = {"dim": 16, "layers": 2, "ffn_dim": 32}


def log(rows: int = 6000, users: int = 150, items: int = 80):
    """A log with some order in it: the next item is mostly the last one plus one."""
    import numpy as np
    import polars as pl

    random = np.random.default_rng(7)
    user = random.integers(users, size=rows)
    step = np.where(random.random(rows) < 0.7, 1, random.integers(1, items, rows))
    item = (np.cumsum(step) + user * 7) % items
    time = 1_700_000_000 + np.cumsum(random.integers(1, 5000, rows))
    return pl.DataFrame({"user_id": user, "item_id": item, "timestamp": time})


def numbers() -> dict[str, object]:
    """All numbers of the longrec that is imported here."""
    import torch

    import longrec
    from longrec.models import MODELS

    torch.set_num_threads(1)
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        histories = longrec.prepare(log(), Path(folder) / "histories")
        for name in sorted(MODELS):
            for number, variant in enumerate(VARIANTS.get(name, [{}])):
                settings = {
                    **(SHAPE if hasattr(MODELS[name].config_class, "dim") else {}),
                    **variant,
                }
                run = Path(folder) / f"{name}-{number}"
                label = f"{name} {variant or ''}"
                found[label] = _of_run(longrec, histories, name, run, settings)
                print(label, file=sys.stderr)
    return found


def _of_run(longrec, histories, name: str, run: Path, settings: dict) -> dict[str, object]:
    rec = longrec.train(
        histories, name, run, max_epochs=3, seed=3, batch_tokens=600, device="cpu", **settings
    )
    metrics = longrec.evaluate(rec, histories)
    lists = rec.recommend(data=histories, k=5)
    curve = (run / "log.csv").read_text().splitlines() if (run / "log.csv").is_file() else []
    timed = {"seconds", "events_per_second"}
    head = curve[0].split(",") if curve else []
    stored = [n for n, column in enumerate(head) if column not in timed]
    found = {
        "state_digest": rec.state_digest,
        "log": [[line.split(",")[n] for n in stored] for line in curve],
        "metrics": {key: float(value).hex() for key, value in dict(metrics).items()},
        "lists": [*lists["item"].to_list(), *(x.hex() for x in lists["score"].to_list())],
    }
    if rec.model.streaming != "none":
        with rec.open_stream(f"lmdb://{run}-store", "process") as stream:
            stream.rebuild(histories)
            for step in range(10):
                stream.observe(step % 3, (step * 5) % 80, 1_800_000_000 + step)
            frame = stream.recommend(1, k=5)
            found["stream"] = [*frame["item"].to_list(), *(float(x).hex() for x in frame["score"])]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkouts", nargs="*", type=Path, help="OLD NEW")
    checkouts = parser.parse_args().checkouts
    if not checkouts:
        print(json.dumps(numbers(), default=str))
        return 0
    found = []
    for checkout in checkouts:
        environment = {**os.environ, "PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, __file__], env=environment, stdout=subprocess.PIPE, check=True
        )
        found.append(json.loads(done.stdout))
    old, new = found
    different = 0
    for label in sorted(old | new):
        one, other = old.get(label, {}), new.get(label, {})
        unequal = [key for key in sorted(one | other) if one.get(key) != other.get(key)]
        print(f"{label:60} {'equal' if not unequal else 'DIFFERENT: ' + ', '.join(unequal)}")
        different += bool(unequal)
    print(f"{len(old)} runs before, {len(new)} now, {different} differ")
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main())
