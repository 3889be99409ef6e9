"""What tests need of the machine: they are skipped without it, and fail where it must be there."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(words: str, required: str) -> NoReturn:
    """Skip the test since something is missing; fail it where the variable `required` is set."""
    if os.environ.get(required):
        pytest.fail(f"{words}, and {required} is set")
    pytest.skip(words)
