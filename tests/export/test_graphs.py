"""Every model that can be exported gives in ONNX Runtime what it gives in PyTorch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from export.small_exports import away, check_window, empty, histories, read_in_parts, small
from models.small_models import SEQUENCE, N
from serving.small_streams import FIRST, recommender

from longrec.core.errors import LongrecError, UsageError
from longrec.export.folder import EXPORT, export
from longrec.export.graphs import READ_TABLE, TABLE, WINDOW, layout_of
from longrec.export.parity import TOLERANCE, Runtime, check_parity
from longrec.models import MODELS
from longrec.serving.records.record import flat

EXPORTED = {name for name, cls in MODELS.items() if cls.streaming != "none"}
FEW = {
    "hydrarec": {},
    "limarec": {},  # with several vectors of a user
    "fuxi-linear": {},  # scores by cosines, which other vectors are scored for than are read
    "elastic with a memory bank": {},  # the default model, and the bank
}
"""Models that show what files hold and who can read them, which is the same of all."""
FORMS = FEW | {
    name: {}
    for name in SEQUENCE
    if MODELS[name].streaming == "exact" and name not in ("elastic", *FEW)
}
FORMS |= {
    "sasrec-rotary": {"layers": 2},
    "persrec": {"layers": 2, "segment": 80, "summaries": 2},
    # Most calls ask the bank nothing, which ends the process where a graph divides by their number.
    "elastic by time": {
        **{"convolution": 0, "experts": 1},
        **{"memory_slots": 64, "memory_topk": 4, "memory_every": 100},
    },
}
"""Each registered model that streams, once; elastic, which takes half a minute, in two forms."""
CASES = list(FORMS.items())
OF_FEW = pytest.mark.parametrize("exported", CASES[: len(FEW)], ids=FEW, indirect=True)
"""For tests of a few; the first of all, so that none is exported once more."""
EXAMPLE = Path(__file__).parents[2] / "examples" / "serve_from_export.py"
BARE = """
import importlib.abc, runpy, sys

class Without(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "longrec"):
            raise ModuleNotFoundError(f"{name} is not installed here")

sys.meta_path.insert(0, Without())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a script where neither torch nor longrec can be imported."""


@pytest.fixture(scope="module", params=CASES, ids=FORMS)
def exported(request, tmp_path_factory):
    """(recommender, folder, manifest) of a model that streams exactly."""
    case, settings = request.param
    rec = small(case, **settings)
    folder = tmp_path_factory.mktemp("export") / "out"
    return rec, folder, export(rec, folder)


@pytest.mark.slow
def test_any_cut_gives_what_the_whole_history_gives(exported):
    rec, folder, manifest = exported
    items, times = histories(3, 200)
    random = np.random.default_rng(1)
    steps = list(range(120, 140))
    for cuts in ([], [1], [WINDOW], steps, [*range(95, 105)], sorted(random.integers(0, 201, 6))):
        h = read_in_parts(folder, manifest, items, times, cuts)
        assert away(rec, items, times, h) < TOLERANCE, cuts


@pytest.mark.slow
def test_rows_of_a_batch_do_not_meet(exported):
    rec, folder, manifest = exported
    items, times = histories(4, 100)
    lengths = np.array([100, 0, 1, 70])
    state = Runtime(folder).prefill(items, lengths, times, empty(manifest, 4))
    for row, length in enumerate(lengths):
        alone = state["output"][row : row + 1]
        if length:
            cut = items[row : row + 1, :length], times[row : row + 1, :length]
            assert away(rec, *cut, alone) < TOLERANCE
        assert state["count"][row] == length
        assert state["time"][row] == (times[row, length - 1] if length else np.iinfo("int64").min)


@pytest.mark.slow
def test_the_manifest_describes_state_and_graphs(exported):
    rec, folder, manifest = exported
    assert EXPORT.read(folder) == json.loads(json.dumps(manifest))
    for name, tensor in zip(
        layout_of(rec.model).fields, flat(rec.model.initial_state(3)), strict=True
    ):
        made = empty(manifest, 3)[name]
        assert made.dtype == tensor.numpy().dtype, name
        np.testing.assert_array_equal(made, tensor.numpy())
    for name, graph in manifest["graphs"].items():
        model = onnx.load(folder / f"{name}.onnx", load_external_data=False)
        onnx.checker.check_model(folder / f"{name}.onnx")
        assert [part.name for part in model.graph.input] == [p["name"] for p in graph["inputs"]]
        assert [part.name for part in model.graph.output] == [p["name"] for p in graph["outputs"]]
        assert all(part["shape"][0] == "B" for part in graph["inputs"] + graph["outputs"])
        ins = {p["name"]: (p["dtype"], p["shape"]) for p in graph["inputs"]}
        for part in manifest["state"] if name != "user" else ():
            assert ins[part["name"]] == (part["dtype"], part["shape"])
    assert manifest["state_digest"] == rec.state_digest
    assert manifest["catalog_version"] == rec.catalog_version


@pytest.mark.slow
@OF_FEW
def test_item_vectors_stand_on_the_disk_once(exported):
    rec, folder, manifest = exported
    scored = torch.equal(rec.model.items, rec.model.item_vectors())
    read = TABLE if scored else READ_TABLE  # a cosine's are scored over their length
    assert (folder / READ_TABLE).is_file() != scored
    for name in ("step", "prefill"):
        model = onnx.load(folder / f"{name}.onnx", load_external_data=False)
        table = next(part for part in model.graph.initializer if part.name == "model.items")
        assert {part.key: part.value for part in table.external_data}["location"] == read
    # The graphs read them there: other vectors, other states.
    items, times = histories(2, 5)
    before = read_in_parts(folder, manifest, items, times, [])
    whole = (folder / read).read_bytes()
    try:
        # Not twice as long ones, which a norm makes the same of.
        np.save(folder / read, np.ascontiguousarray(np.load(folder / read)[:, ::-1]))
        assert np.abs(read_in_parts(folder, manifest, items, times, []) - before).max() > 1e-3
    finally:
        (folder / read).write_bytes(whole)


@pytest.mark.slow
@OF_FEW
def test_nothing_of_the_exporting_machine_is_told(exported):
    _, folder, manifest = exported
    for name in manifest["graphs"]:
        content = (folder / f"{name}.onnx").read_bytes()
        assert b".py" not in content
        assert str(Path(__file__).parents[2]).encode() not in content


@pytest.mark.slow
@OF_FEW
def test_another_model_is_no_parity(exported):
    rec, folder, _ = exported
    weights = list(rec.model.blocks[0].mixer.parameters())
    before = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        try:
            for weight in weights:  # of one number alone some models make next to nothing
                weight *= 1.2
            with pytest.raises(LongrecError, match="does not give what the model gives"):
                check_parity(rec.scorer, folder, None)
        finally:
            for weight, kept in zip(weights, before, strict=True):
                weight.copy_(kept)


@pytest.mark.slow
@OF_FEW
def test_the_example_serves_without_torch(exported):
    rec, folder, _ = exported
    if rec.model.takes_times:
        pytest.skip("the example gives the history no times")
    random = np.random.default_rng(0)
    history = random.integers(FIRST, FIRST + N - 15, 150).tolist()
    ran = subprocess.run(
        [sys.executable, "-c", BARE, EXAMPLE, folder, *map(str, history)],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stderr
    told = [line.split() for line in ran.stdout.splitlines()]
    wanted = [
        rec.recommend(histories=[events])["item"].cast(str).to_list()
        for events in (history, [*history, history[0]])
    ]
    assert told == wanted


def test_the_example_is_short():
    lines = [line for line in EXAMPLE.read_text().splitlines() if line.strip()]
    code = [line for line in lines if not line.startswith(("#", '"""'))]
    assert len(code) <= 115


@pytest.mark.parametrize(
    ("case", "context"), [("bert4rec", None), ("sasrec", 1), ("sasrec", 3), ("hstu", None)]
)
@pytest.mark.slow
def test_models_with_a_window(case, context, tmp_path):
    rec = small(case, context=context)
    check_window(rec, tmp_path / "out", export(rec, tmp_path / "out"))


@pytest.mark.parametrize("name", [n for n, cls in MODELS.items() if n not in EXPORTED])
def test_other_models_are_refused_by_name(name, tmp_path):
    with pytest.raises(UsageError, match=rf"^{name} "):
        export(recommender(name), tmp_path / "out")
    assert not list(tmp_path.iterdir())
