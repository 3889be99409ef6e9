"""Serve from `longrec export` without PyTorch: python serve_from_export.py FOLDER ITEM..."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow.parquet as pq


class Export:
    """A recommender, read from its folder."""

    def __init__(self, folder):
        self.manifest = json.loads((folder / "manifest.json").read_text())
        items = pq.read_table(folder / "items.parquet")
        self.ids = ["", *map(str, items["id"].to_pylist())]  # index 0 is padding
        self.index = {item: number for number, item in enumerate(self.ids)}
        self.counts = np.append(0, items["count"].to_numpy())
        graphs = self.manifest["graphs"]
        self.graphs = {g: onnxruntime.InferenceSession(folder / f"{g}.onnx") for g in graphs}
        scoring = self.manifest["scoring"]
        self.vectors = np.load(folder / "item_vectors.npy") if scoring["items"] else None
        self.bias = np.load(folder / name) if (name := scoring["bias"]) else 0
        self.rows, self.exclude_seen = scoring["rows"], scoring["exclude_seen"]
        self.followers = dict(np.load(folder / self.rows["file"])) if self.rows else {}

    def added(self, recent):
        """What a user's last items, the latest first, add to the scores of all items."""
        total, left, kind = np.zeros(len(self.ids)), 0.0, self.rows["kind"]
        for k, item in enumerate(recent):
            weight = 1.0
            if kind == "sum":  # each item once, where it stands latest
                weight = 0.0 if item in recent[:k] else self.rows["decay"] ** k
            elif kind == "log":
                prior = self.rows["prior"]
                weight = self.rows["decay"] ** k / (self.followers["totals"][item] + prior)
                left += weight * prior
            if "weights" in self.followers:
                total += weight * self.followers["weights"][item].astype(float)
                continue
            starts, followers, times = (self.followers[n] for n in ("starts", "followers", "times"))
            here = slice(starts[item], starts[item + 1])
            total[followers[here]] += weight * times[here].astype(float)
        found = np.flatnonzero(total)
        if kind == "sum":
            total[found] = total[found].astype(np.float32) - self.followers["bias"][found]
        elif kind == "log":
            ratio = total[found] / (left * self.followers["shares"][found])
            total[found] = self.rows["weight"] * np.log1p(ratio)
        return total


class User:
    """What is kept of one user. Many users at once are as many rows of what the graphs take."""

    def __init__(self, export):
        self.export, self.seen, self.at, manifest = export, [], [], export.manifest
        self.prefill, self.window = manifest["events_per_prefill"], manifest["events_per_encode"]
        self.state = {
            t["name"]: np.full((1, *t["shape"][1:]), t["fill"], t["dtype"])
            for t in manifest["state"]
        }

    def observe(self, items, times=None):
        """Events, oldest first; those of unknown items are skipped, times may not matter."""
        at = np.zeros(len(items), np.int64) if times is None else np.asarray(times)
        known = [
            (self.export.index[i], t)
            for i, t in zip(items, at, strict=True)
            if i in self.export.index
        ]
        self.seen, self.at = self.seen + [i for i, _ in known], self.at + [t for _, t in known]
        if not self.prefill:  # no state: a window of last events is read again, or they are counted
            return
        if len(known) == 1:
            item, time = np.array(known).T
            self._go_on("step", items=item, times=time)
            return
        for start in range(0, len(known), self.prefill):
            part = np.array(known[start : start + self.prefill])
            padded = np.pad(part, ((0, self.prefill - len(part)), (0, 0)), mode="edge").T[:, None]
            real = np.array([len(part)])
            self._go_on("prefill", items=padded[0], lengths=real, times=padded[1])

    def _go_on(self, name, **events):
        new = self.export.graphs[name].run(None, events | self.state)
        self.state.update(zip(self.state, new, strict=True))

    def scores(self):
        """Scores of all items, of a user with events."""
        e = self.export
        if e.vectors is None:
            scores = e.bias.copy()
        else:
            h = self.state.get("output")
            if self.window:
                last, at = (np.array([x[-self.window :]]) for x in (self.seen, self.at))
                feed = {"items": last, "lengths": np.array([last.shape[1]])}
                if e.manifest["reads_times"]:
                    feed["times"] = np.maximum.accumulate(at, axis=1)
                h = e.graphs["encode"].run(None, feed)[0]
            users = e.graphs["user"].run(None, {"h": h})[0][0] if "user" in e.graphs else h
            # A matrix product may round two items of one vector differently; this never does.
            scores = np.max([np.einsum("id,d->i", e.vectors, user) for user in users], axis=0)
            scores = scores + e.bias
        if e.rows:
            scores += e.added(self.seen[: -e.rows["last"] - 1 : -1]).astype(scores.dtype)
        return scores

    def recommend(self, k=10):
        """As `longrec recommend` does: by the run's own policy on seen items."""
        scores = self.scores() if self.seen else self.export.counts.astype(float)
        scores[[0, *(self.seen if self.export.exclude_seen else [])]] = -np.inf
        best = np.argsort(-scores, kind="stable")[:k]  # of equal scores the smaller index
        return [self.export.ids[i] for i in best if scores[i] > -np.inf]


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(f"usage: {sys.argv[0]} EXPORT ITEM...")
    user = User(Export(Path(sys.argv[1])))
    user.observe(sys.argv[2:])
    print(*user.recommend())
    user.observe(sys.argv[2:3], [int(time.time())])  # the user comes back to the first item, now
    print(*user.recommend())
