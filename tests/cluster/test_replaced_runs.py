"""A run that is replaced while its users are scored is told, whatever of it was changed."""

from __future__ import annotations

from pathlib import Path

import pytest
from serving.fresh_streams import with_transitions
from small_histories import MakeHistories

from longrec.cluster.scoring import _open
from longrec.core.errors import DataError
from longrec.recommender import Recommender, load


def refitted(rec: Recommender) -> None:
    """Its counts are others; its model and its items are not."""
    assert rec.added is not None
    rec.added.times.mul_(0.5)


def popular(rec: Recommender) -> None:
    rec.catalog.counts[0] += 1


def hides(rec: Recommender) -> None:
    rec.exclude_seen = not rec.exclude_seen


@pytest.mark.slow
@pytest.mark.parametrize("change", [refitted, popular, hides])
def test_what_a_worker_reads_is_what_the_command_has(
    tmp_path: Path, make_histories: MakeHistories, change
):
    run = with_transitions("hydrarec").save(tmp_path / "run")
    data = make_histories([[1, 2, 3]])
    begun = load(run)
    opened = str(run), begun.answers_as, str(data.path), data.fingerprint, ()
    assert _open(*opened)[0].answers_as == begun.answers_as
    _open.cache_clear()
    other = with_transitions("hydrarec")
    change(other)
    other.save(run)
    assert load(run).state_digest == begun.state_digest
    with pytest.raises(DataError, match="run was replaced while it was in use"):
        _open(*opened)
