"""What the shell completes: models, settings and their choices. Nothing here imports PyTorch."""

from __future__ import annotations

from typing import get_type_hints

from typer import Context

Found = list[tuple[str, str]]
"""Words that complete what was typed, and what they are."""


def complete_model(incomplete: str) -> Found:
    """Models whose names begin so."""
    from longrec.cli.known_names import model_names

    return [(name, what) for name, what in model_names().items() if name.startswith(incomplete)]


def complete_models(incomplete: str) -> Found:
    """The last of several models with commas between."""
    before, comma, last = incomplete.rpartition(",")
    named = before.split(",")
    found = [(name, what) for name, what in complete_model(last) if name not in named]
    return [(f"{before}{comma}{name}", what) for name, what in found]


def complete_setting(ctx: Context, incomplete: str) -> Found:
    """`KEY=` of the model that the call names, or of all; after that the choices of training's."""
    from longrec.cli.known_names import settings_of
    from longrec.config.training import TrainConfig
    from longrec.config.values import options_of

    key, equals, value = incomplete.partition("=")
    if not equals:
        known = settings_of(ctx.params.get("model"))
        return [(f"{name}=", what) for name, what in known.items() if name.startswith(key)]
    hint = get_type_hints(TrainConfig, include_extras=True).get(key)
    choices = [one for one in options_of(hint) if isinstance(one, str)] if hint else []
    return [(f"{key}={one}", "") for one in choices if one.startswith(value)]
