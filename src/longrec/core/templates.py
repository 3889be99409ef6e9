"""Pages from templates, in which every text that is put in is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


def page_template(
    package: str, folder: str, name: str, filters: Mapping[str, Any] | None = None
) -> Template:
    """A template of a package's folder; a name that it uses and nobody gave is an error."""
    environment = Environment(
        loader=PackageLoader(package, folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters or {}
    return environment.get_template(name)
