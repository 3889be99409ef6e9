"""Sizes of a saved model: its parameters, and what serving keeps of one of its users."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from longrec.models import CountingModel, build_model
from longrec.models.common.settings import parse_settings, stored_settings
from longrec.runs.describe import record_bytes

EVENT_BYTES = 12  # of an event that serving keeps: int32 item, int64 time


def sizes_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a saved model, and what serving keeps of one of its users.

    A model that counts keeps the last items that it reads, one that streams exactly its state, each
    in a record; one that reads the last N events keeps those, and any other the whole history,
    without limit (None).
    """
    name = config["model"]
    model_config, training = parse_settings(
        name, config["model_config"] | stored_settings(config["train_config"])
    )
    with torch.device("meta"):  # shapes alone, so that a large table costs nothing
        model = build_model(name, model_config, config["items"])
        kept_bytes = record_bytes(model)
    last = model.reads(training.context)
    keeps = "the whole history"
    if isinstance(model, CountingModel):
        keeps = _last(model.reach, "item")
    elif model.streaming == "exact":
        keeps = "its state"
    elif last is not None:
        kept_bytes = EVENT_BYTES * last
        keeps = _last(last, "event")
    counted = isinstance(model, CountingModel)
    return {
        "parameters": None if counted else sum(p.numel() for p in model.parameters()),
        "kept_bytes": kept_bytes,
        "keeps": keeps,
    }


def _last(number: int, what: str) -> str:
    if number == 0:
        return "nothing"
    return f"the last {what}" if number == 1 else f"the last {number:,} {what}s"
