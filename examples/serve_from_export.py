"""Serve from `longrec export` without PyTorch: python serve_from_export.py FOLDER ITEM..."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow.parquet as pq

folder, history = Path(sys.argv[1]), sys.argv[2:]
manifest = json.loads((folder / "manifest.json").read_text())
ids = ["", *map(str, pq.read_table(folder / "items.parquet")["id"].to_pylist())]  # 0 is padding
vectors = np.load(folder / "item_vectors.npy", mmap_mode="r")
graphs = {g: onnxruntime.InferenceSession(folder / f"{g}.onnx") for g in manifest["graphs"]}
bias = np.load(folder / name) if (name := manifest["scoring"]["bias"]) else 0
tensors, window = manifest["state"], manifest["events_per_prefill"]
# One user without events; many at once are as many rows.
state = {t["name"]: np.full((1, *t["shape"][1:]), t["fill"], t["dtype"]) for t in tensors}


def go_on(name, **events):
    state.update(zip(state, graphs[name].run(None, events | state), strict=True))


def recommend(seen, k=10):
    users = state["output"]  # one vector, or those that a graph of its own makes of it
    users = graphs["user"].run(None, {"h": users})[0][0] if "user" in graphs else users
    scores = (vectors @ users.T).max(1) + bias
    scores[[0, *seen]] = -np.inf
    return [ids[i] for i in np.argsort(-scores, kind="stable")[:k]]


seen = [ids.index(item) for item in history]
for start in range(0, len(seen), window):  # at times that the model need not know: all 0
    row = np.zeros((1, window), np.int64)
    row[0, : len(seen[start : start + window])] = seen[start : start + window]
    real = np.array([min(window, len(seen) - start)])
    go_on("prefill", items=row, lengths=real, times=np.zeros_like(row))
print(*recommend(seen))
event = seen[0]  # the user comes back to the first item, now
go_on("step", items=np.array([event]), times=np.array([int(time.time())]))
print(*recommend(seen))
