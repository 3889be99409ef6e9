"""What the registry says of itself."""

from __future__ import annotations

import pytest

from longrec.config.describe import describe_model, describe_models
from longrec.models import MODELS


def test_every_model_is_described_as_it_is_built():
    rows = {row["model"]: row for row in describe_models()}
    assert sorted(rows) == sorted(MODELS)
    causal = {name: row["causal"] for name, row in rows.items()}
    assert {name for name in ("elastic", "sasrec", "popularity") if not causal[name]} == set()
    assert {name for name in ("bert4rec", "hydrarec-bidirectional") if causal[name]} == set()
    assert rows["bert4rec"]["streaming"] == "windowed"
    assert all(row["summary"].endswith(".") for row in rows.values())


@pytest.mark.parametrize(("name", "default"), [("sasrec", "next"), ("bert4rec", "masked")])
def test_targets_are_a_setting_with_its_choices(name, default):
    settings = {row["key"]: row for row in describe_model(name)["model_settings"]}
    assert settings["targets"] == {
        "key": "targets",
        "default": default,
        "type": "next | masked | last",
    }
