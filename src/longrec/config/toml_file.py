"""Settings in a TOML file, under the names that `--set` has, each at the top level."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from longrec.core.errors import DataError, UsageError, first_line
from longrec.core.files import write_file


@dataclass(frozen=True)
class ConfigFile:
    """What a file of settings holds.

    Attributes
    ----------
    path : the file.
    model : what its key "model" names, None without one.
    settings : all others, as TOML has them: numbers, text, true or false.
    """

    path: str
    model: str | None
    settings: dict[str, Any]

    def about(self) -> dict[str, Any]:
        """For the provenance: plain values."""
        return asdict(self)


def read_config_file(path: Path) -> ConfigFile:
    """Read a TOML file of settings; which keys there are is for the model to say.

    Raises
    ------
    DataError
        When it cannot be read, or is no TOML.
    UsageError
        When it holds tables or lists, which no setting is.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: the config cannot be read: {error.strerror}") from error
    except ValueError as error:  # TOMLDecodeError says line and column; UnicodeDecodeError
        raise DataError(
            f"{path} is no TOML ({first_line(error)}): mend it there; a setting is a line such as "
            'dim = 64 or loss = "full"'
        ) from error
    for key, value in content.items():
        if isinstance(value, dict):
            raise UsageError(
                f"{path} has a table [{key}]; settings stand at the top level, such as dim = 64"
            )
        if not isinstance(value, bool | int | float | str):
            kind = "list" if isinstance(value, list) else "date"
            raise UsageError(
                f"{path}: {key} is a {kind}; give a number, text in quotes, true or false"
            )
    model = content.pop("model", None)
    if model is not None and not isinstance(model, str):
        raise UsageError(f"{path}: model is {model!r}; give the name of one, in quotes")
    return ConfigFile(str(path.resolve()), model, content)


def write_config_file(
    path: Path, model: str, settings: Mapping[str, Any], about: Iterable[str] = ()
) -> None:
    """Write settings that `read_config_file` reads, below lines of comment."""
    comments = [f"# {line}" for text in about for line in text.splitlines()]
    values = [f"{key} = {_written(value)}" for key, value in {"model": model, **settings}.items()]
    write_file(path, "\n".join([*comments, *values, ""]))


def _written(value: bool | int | float | str | None) -> str:
    """A value in TOML, which has no word for nothing: the text that stands for it everywhere."""
    if isinstance(value, float):
        return repr(value)  # 1e-05 and 0.001 are TOML's floats, too
    # JSON's true, numbers and text in quotes are TOML's, but for the character 127
    return json.dumps("none" if value is None else value).replace("\x7f", "\\u007f")
