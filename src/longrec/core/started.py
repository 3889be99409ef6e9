"""Which of several processes this one is, as torchrun, or we, have told it in its environment."""

from __future__ import annotations

import os

from longrec.core.errors import UsageError

_NAMES = ("RANK", "WORLD_SIZE")


def rank_and_number() -> tuple[int, int]:
    """This process's number from 0, and how many were started with it; (0, 1) where none were.

    Raises
    ------
    UsageError
        When the environment has what torchrun never says.
    """
    if any(name not in os.environ for name in ("TORCHELASTIC_RUN_ID", *_NAMES)):
        return 0, 1
    texts = [os.environ[name] for name in _NAMES]
    if not all(text.isascii() and text.isdigit() for text in texts) or not (
        int(texts[0]) < int(texts[1])
    ):
        raise UsageError(
            f"the environment has RANK={texts[0]!r:.40} and WORLD_SIZE={texts[1]!r:.40}, whole "
            "numbers that torchrun sets: unset them and TORCHELASTIC_RUN_ID, or use torchrun"
        )
    return int(texts[0]), int(texts[1])


def refuse_several(command: str) -> None:
    """Raise UsageError where torchrun started several processes, of which each would do it all."""
    _, number = rank_and_number()
    if number > 1:
        raise UsageError(
            f"torchrun has started {number} processes, and each would do all of `longrec {command}`"
            ": call it without torchrun (only train and refit share their work)"
        )
