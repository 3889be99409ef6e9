"""Names of models and of their settings, read from our sources: a shell that completes a word
cannot wait for PyTorch.

What a model file declares is found as text: the name in `@register_model`, the class's
`config_class`, and the fields of that class and of its bases.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from longrec.config.border import describe_settings
from longrec.config.training import TrainConfig

MODELS = Path(__file__).parents[1] / "models"


@cache
def model_names() -> dict[str, str]:
    """Our models, each with the first line of its description."""
    return {name: summary for name, (_, summary) in _models().items()}


@cache
def settings_of(model: str | None) -> dict[str, str]:
    """Keys of a model, or of all, and of training, each with a default or the like beside it."""
    models = _models()
    chosen = [models[model]] if model in models else models.values()
    own = {key: "of the model" for config, _ in chosen for key in _fields(config)}
    return own | {one["key"]: one["meaning"] for one in describe_settings(TrainConfig)}


@cache
def _models() -> dict[str, tuple[str, str]]:
    """By a model's name its class of settings, and the first line of its description."""
    found = {}
    for node in _classes().values():
        for call in node.decorator_list:
            if (
                isinstance(call, ast.Call)
                and isinstance(call.func, ast.Name)
                and call.func.id == "register_model"
                and isinstance(call.args[0], ast.Constant)
            ):
                summary = (ast.get_docstring(node) or "").partition("\n")[0]
                found[str(call.args[0].value)] = (_config_class(node), summary)
    return dict(sorted(found.items()))


@cache
def _classes() -> dict[str, ast.ClassDef]:
    """All classes of model files, by name."""
    return {
        node.name: node
        for path in sorted(MODELS.rglob("*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }


def _config_class(node: ast.ClassDef) -> str:
    """The name of a model's class of settings, its own or of a base; empty without one."""
    for statement in node.body:
        if isinstance(statement, ast.Assign):
            names = [one.id for one in statement.targets if isinstance(one, ast.Name)]
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            names = [statement.target.id]
        else:
            continue
        if "config_class" in names and isinstance(statement.value, ast.Name):
            return statement.value.id
    return next(filter(None, map(_config_class, _bases(node))), "")


def _fields(config: str) -> list[str]:
    """The fields of a class of settings, those of its bases first."""
    node = _classes().get(config)
    if node is None:
        return []
    own = [
        one.target.id
        for one in node.body
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
    ]
    inherited = [key for base in _bases(node) for key in _fields(base.name)]
    return list(dict.fromkeys([*inherited, *own]))


def _bases(node: ast.ClassDef) -> list[ast.ClassDef]:
    names = [base.id for base in node.bases if isinstance(base, ast.Name)]
    return [_classes()[name] for name in names if name in _classes()]
