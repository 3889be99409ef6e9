"""Runs that are damaged, or made to be: each is told, at once, and none of them serves.

Digests of the files are right (`forging.seal`), so that what is inside is what is refused.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from artifact.forging import change_json, change_tensors, seal, write
from models.small_models import N
from serving.small_streams import recommender
from torch import Tensor

from longrec.core.errors import DataError, LongrecError
from longrec.models import MODELS, CountingModel, build_model
from longrec.models.common.settings import parse_settings
from longrec.models.transitions import TransitionsScore
from longrec.recommender import Recommender, load

Change = Callable[[Path], object]
DEEP = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
ITEMS = torch.arange(400) * 7 % N + 1


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, plain = tmp_path_factory.mktemp("runs"), recommender("elastic")
    counted = TransitionsScore.of(ITEMS, torch.full((4,), 100), N, weight=0.5)
    return {
        "plain": plain.save(folder / "plain"),
        "transitions": plain.with_added_score(counted).save(folder / "transitions"),
    }


def forged(saved: dict[str, Path], name: str, change: Change, tmp_path: Path) -> Path:
    run = tmp_path / "run"
    shutil.copytree(saved[name], run)
    change(run)
    return run


def model_config(**values: object) -> Change:
    return lambda run: seal(run, lambda config: config["model_config"].update(values))


def config(**values: object) -> Change:
    return lambda run: seal(run, lambda config: config.update(values))


def document(content: bytes) -> Change:
    return lambda run: (run / "config.json").write_bytes(content)


def provenance(**values: object) -> Change:
    return lambda run: change_json(run, "provenance.json", lambda old: old.update(values))


def answers(**values: object) -> Change:
    return lambda run: change_json(run, "known_answers.json", lambda old: old.update(values))


def catalog(ids: Any, counts: Any = None, **how: Any) -> Change:
    def change(run: Path) -> None:
        given = list(ids) if isinstance(ids, range) else ids
        count = np.ones(len(given), np.int64) if counts is None else counts
        columns = {"id": given, "count": count}
        pq.write_table(pa.table(columns), run / "catalog.parquet", **how)
        seal(run)

    return change


def tensor(name: str, at: int, value: float, added: bool = False) -> Change:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name].view(-1)[at] = value

    return lambda run: change_tensors(run, change, added)


def tensors(change: Callable[[dict[str, Tensor]], object]) -> Change:
    return lambda run: change_tensors(run, change)


def flipped(bit: int) -> Change:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["items"].view(torch.int32).view(-1)[200] ^= 1 << bit

    return lambda run: change_tensors(run, change)


def exchanged(found: dict[str, Tensor]) -> None:
    found["norm.weight"], found["norm.bias"] = found["norm.bias"], found["norm.weight"]


def header(length: int, text: bytes = b"") -> Change:
    return lambda run: write(run, "model.safetensors", struct.pack("<Q", length) + text)


def instead(name: str, make: Callable[[Path], object]) -> Change:
    def change(run: Path) -> None:
        (run / name).unlink()
        make(run / name)

    return change


def long(name: str) -> Change:
    return lambda run: os.truncate(run / name, 1 << 43)


CASES: dict[str, tuple[Change, str]] = {
    "layers=10**7": (model_config(layers=10**7), r"config\.json: layers is 10000000"),
    "many layers": (model_config(layers=1024), "describes a larger model"),
    "wide": (model_config(dim=65536, ffn_dim=65536, layers=1024), "describes a larger model"),
    "a large memory": (model_config(memory_slots=2**20), "describes a larger model"),
    "another width": (model_config(ffn_dim=8), r"model\.safetensors does not hold the weights"),
    "text": (model_config(dim="wide"), "dim is 'wide'; it must be an integer"),
    "a huge integer": (model_config(dim=10**3000), "dim is 1000"),
    "many settings": (model_config(**{f"k{n}": 1 for n in range(2_000)}), "no setting 'k0'"),
    "nested": (document(DEEP), r"config\.json is damaged \(values nested too deeply\)"),
    "digits": (document(b'{"format": 1' + b"0" * 9999 + b"}"), r"config\.json is damaged"),
    "a large document": (long("config.json"), r"config\.json has more than 16\.0 MiB"),
    "true": (config(format=True), "has format True"),
    "items": (config(items=10**12), "3,068 numbers, and items is 1,000,000,000,000"),
    "no items": (config(items=0), "items is 0"),
    "items true": (config(items=True), "lacks 'items'"),
    "base_items": (config(base_items=-3), "base_items -3"),
    "exclude_seen": (config(exclude_seen="yes"), "exclude_seen is 'yes'"),
    "columns": (config(columns={"type": [1]}), r"columns\.type is \[1\]"),
    "added score": (config(added_score={}), r"added_score\.name is None"),
    "a long name": (config(model="z" * 10**6), "there is no model 'zzz"),
    "names of files": (
        lambda run: seal(run, lambda c: c["digests"].update({"../x": "a"})),
        "digests has names that are none of files",
    ),
    "no answers": (
        lambda run: seal(run, lambda c: c["digests"].pop("known_answers.json")),
        r"digests lacks known_answers\.json",
    ),
    "one item more": (catalog(list(range(N + 1))), "has 41 items, and should have 40"),
    "many rows": (catalog(pa.array(np.zeros(10**7, np.int8))), "has 10,000,000 items"),
    "an id twice": (catalog([1, *range(1, N)]), "the id 1 stands twice"),
    "an id twice, unordered": (catalog([*range(1, N), 7]), "the id 7 stands twice"),
    "counts below 0": (catalog(range(N), np.full(N, -1)), "less than no events"),
    "counts that lack": (catalog(range(N), pa.array([None, *range(N - 1)])), "or no number"),
    "counts that are text": (catalog(range(N), ["1"] * N), "column count is of type string"),
    "ids that lack": (catalog(pa.array([None, *range(N - 1)])), "column id has a null"),
    "ids that are lists": (catalog([[n] for n in range(N)]), "column id is of type list"),
    "ids that are large": (catalog(["x" * 10**6] * N), r"ids would take 38\.1 MiB"),
    "ids of one prefix": (
        catalog(
            ["x" * 10**5 + str(n) for n in range(N)],
            use_dictionary=False,
            column_encoding={"id": "DELTA_BYTE_ARRAY"},
        ),
        "encoded as DELTA_BYTE_ARRAY",
    ),
    "ids in another order": (catalog(range(N - 1, -1, -1)), "does not hold the items"),
    "half a catalog": (
        lambda run: write(run, "catalog.parquet", (run / "catalog.parquet").read_bytes()[:-9]),
        "not a readable Parquet file",
    ),
    "NaN": (tensor("items", 5, np.nan), r"safetensors: items has 1 numbers that are not finite"),
    "infinite": (tensor("norm.bias", 0, np.inf), "norm.bias has 1 numbers that are not finite"),
    "renamed": (tensors(lambda t: t.update(x=t.pop("norm.bias"))), 'key.*"norm.bias".*"x"'),
    "dropped": (tensors(lambda t: t.pop("norm.bias")), 'Missing key.*"norm.bias"'),
    "exchanged": (tensors(exchanged), "does not hold the tensors that were saved"),
    "the lowest bit": (flipped(0), "does not hold the tensors that were saved"),
    "a high bit": (flipped(29), "does not hold the tensors that were saved"),
    "rows exchanged": (
        tensors(lambda t: t.update(items=t["items"].roll(1, 0))),
        "does not hold the tensors that were saved",
    ),
    "integers": (
        tensors(lambda t: t.update(items=t["items"].int())),
        r"items holds torch\.int32, and the model's is torch\.float32",
    ),
    "a long list of tensors": (header(2**60), "list of tensors would have"),
    "a list that is none": (header(9, b'{"a":[[[['), r"model\.safetensors is damaged"),
    "a pickle": (lambda run: write(run, "model.safetensors", b"\x80\x04."), "is damaged"),
    "provenance": (provenance(data=[1]), r"provenance\.json is damaged \(data is \[1\]\)"),
    "plugin": (provenance(plugin=5), "plugin is 5"),
    "answers of none": (answers(scores="x"), "its histories cannot be scored"),
    "answers of others": (answers(items=[[10**9] * 30] * 4), "an item that there is not"),
    "a pipe": (instead("model.safetensors", os.mkfifo), r"model\.safetensors is missing"),
    "a pipe for settings": (instead("config.json", os.mkfifo), r"has no config\.json"),
    "a device": (instead("provenance.json", lambda p: p.symlink_to("/dev/zero")), "is missing"),
    "a link to itself": (instead("catalog.parquet", lambda p: p.symlink_to(p)), "is missing"),
    "a folder": (instead("model.safetensors", Path.mkdir), "is missing"),
    "holes": (long("model.safetensors"), r"has 8192 GiB, and .* of memory are free"),
}
COUNTED: dict[str, tuple[Change, str]] = {
    "starts that fall": (tensor("starts", 3, 10**12, True), "starts do not ascend"),
    "items beyond": (tensor("followers", 0, 10**6, True), "an item that is none of 1 to 40"),
    "padding": (tensor("followers", 0, 0, True), "an item that is none of 1 to 40"),
    "times below 0": (tensor("times", 0, -1, True), "times has numbers that are negative"),
    "counts below 0": (tensor("counts", 2, -1, True), "counts has numbers that are negative"),
    "counts of few": (
        lambda run: change_tensors(run, lambda t: t.update(counts=t["counts"][:5].clone()), True),
        r"counts has shape \(5,\); it must be \(41,\)",
    ),
    "another weight": (
        lambda run: seal(run, lambda c: c["added_score"]["config"].update(weight=0.6)),
        "does not score as when it was saved.*scores differ: item",
    ),
    "left out": (
        lambda run: seal(run, lambda c: c.pop("added_score")),
        "does not score as when it was saved",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_was_changed_is_told_and_not_loaded(
    case: str, saved: dict[str, Path], tmp_path: Path
) -> None:
    change, message = CASES[case]
    run = forged(saved, "plain", change, tmp_path)
    with pytest.raises(DataError, match=message) as told:
        load(run)
    assert str(run) in str(told.value)
    assert len(str(told.value)) < 3000


@pytest.mark.parametrize("case", COUNTED)
def test_counts_that_were_changed_are_told(
    case: str, saved: dict[str, Path], tmp_path: Path
) -> None:
    change, message = COUNTED[case]
    with pytest.raises(DataError, match=message):
        load(forged(saved, "transitions", change, tmp_path))


def small(name: str) -> Recommender:
    keys = vars(parse_settings(name, {})[0])
    sizes = {"dim": 8, "heads": 2, "experts": 3, "ffn_dim": 8, "max_length": 6}
    config, training = parse_settings(name, {k: v for k, v in sizes.items() if k in keys})
    torch.manual_seed(0)
    model = build_model(name, config, N).eval()
    if isinstance(model, CountingModel):
        model.count(ITEMS, torch.full((4,), 100), torch.arange(400))
    return Recommender(name, model, config, training, recommender("elastic").catalog)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_known_answers_by_which_another_one_is_told(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if another version of a model, or a plugin, made other scores of the same tensors."""
    run = small(name).save(tmp_path / "run")
    asked = json.loads((run / "known_answers.json").read_text())
    assert len(asked["scores"]) == 4
    assert load(run).name == name
    score = MODELS[name].score
    monkeypatch.setattr(
        MODELS[name], "score", lambda self, *args, **more: score(self, *args, **more) * 1.01 - 0.01
    )
    with pytest.raises(DataError, match=r"does not score as when it was saved.*versions"):
        load(run)


def test_scores_of_another_processor_are_the_same_to_rounding(tmp_path: Path) -> None:
    """A thousandth of their range is allowed: a hundred times what sums in another order differ."""
    run = small("elastic").save(tmp_path / "run")

    def round_off(asked: dict) -> None:
        for row in asked["scores"]:
            spread = max(row) - min(row)
            row[:] = [score + spread * 1e-4 * (-1) ** n for n, score in enumerate(row)]

    change_json(run, "known_answers.json", round_off)
    assert load(run).name == "elastic"


def test_a_run_of_an_earlier_longrec_has_none_and_says_so(
    saved: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def earlier(run: Path) -> None:
        seal(run, lambda c: (c["digests"].pop("known_answers.json"), c.update(format=1)))

    run = forged(saved, "plain", earlier, tmp_path)
    with caplog.at_level(logging.WARNING, "longrec"):
        again = load(run)
    assert [
        record.message.startswith(f"{run} was saved by an earlier longrec")
        for record in caplog.records
    ] == [True]
    caplog.clear()
    load(again.save(run))
    assert not caplog.records


def test_a_model_that_cannot_be_asked_is_saved_and_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training of days is not lost to a check."""

    def fails(*_: object, **__: object) -> Tensor:
        raise ZeroDivisionError("no score")

    monkeypatch.setattr(MODELS["elastic"], "score", fails)
    run = small("elastic").save(tmp_path / "run")
    assert json.loads((run / "known_answers.json").read_text())["failed"]
    assert load(run).name == "elastic"


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    rec = small("elastic")
    with torch.no_grad():
        rec.model.items[3, 2] = torch.nan
    with pytest.raises(LongrecError, match=r"not saved: items of its elastic.*not finite"):
        rec.save(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_damaged_log_keeps_nobody_from_serving(saved: dict[str, Path], tmp_path: Path) -> None:
    run = forged(saved, "plain", lambda run: os.mkfifo(run / "log.csv"), tmp_path)
    assert load(run).curve.is_empty()
    (run / "log.csv").unlink()
    (run / "log.csv").touch()
    os.truncate(run / "log.csv", 1 << 40)
    assert load(run).curve.is_empty()
