"""docs/from-a-peers-library.md: its commands and code run, and its numbers are right."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

import longrec
from longrec.cli.app import app

PAGE = (Path(__file__).parents[1] / "docs" / "from-a-peers-library.md").read_text("utf-8")
BASH = re.search(r"```bash\n(.*?)```", PAGE, re.S)
FRAME, LISTS = re.findall(r"```python\n(.*?)```", PAGE, re.S)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pl.DataFrame:
    """A folder with RecBole's files, and their events as RecTools has them."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    users, items = random.integers(0, 20, 300), random.integers(0, 30, 300)
    pairs = zip(users, items, strict=True)
    lines = [f"{u}\t{i}\t4.0\t{978300000 + n}" for n, (u, i) in enumerate(pairs)]
    head = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    Path("shop.inter").write_text("\n".join([head, *lines]))
    films = [f"{i}\tFilm {i}\tdrama crime" for i in range(30)]
    Path("shop.item").write_text("\n".join(["item_id:token\ttitle:token_seq\tclass:token", *films]))
    times = pl.Series(1000 * (978300000 + np.arange(300))).cast(pl.Datetime("ms"))
    return pl.DataFrame({"user_id": users, "item_id": items, "datetime": times})


def test_its_lists_are_measured_as_evaluate_measures(here: pl.DataFrame, capsys) -> None:
    assert BASH is not None
    for line in BASH[1].splitlines():
        assert CliRunner().invoke(app, shlex.split(line)[1:]).exit_code == 0, line
    histories = longrec.open_histories("histories")
    assert histories.item_table.columns == ["item", "title", "class"]
    rec = longrec.train(histories, model="last-item", out="run")
    metrics = longrec.evaluate(rec)
    lists = rec.recommend(split="test", k=10).drop("target", "position")
    names = {"lists": lists, "longrec": longrec}
    exec(compile(LISTS, "from-a-peers-library.md", "exec"), names)
    printed = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()]
    assert printed == pytest.approx([metrics["served/hr@10"], metrics["served/ndcg@10"]])
    assert len(names["train"]) == histories.n_events - histories.n_users


def test_a_frame_of_interactions_is_read(here: pl.DataFrame) -> None:
    names = {"interactions": here.to_pandas()}
    exec(compile(FRAME, "from-a-peers-library.md", "exec"), names)
    assert names["histories"].n_events == 300


def test_sums_of_discounts_are_as_written() -> None:
    for k, text in ((5, "2.9485"), (10, "4.5436"), (20, "7.0403"), (50, "12.8977")):
        assert f"{(1 / np.log2(np.arange(2, k + 2))).sum():.4f}" == text
        assert text in PAGE
