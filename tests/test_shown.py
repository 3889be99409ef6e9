"""What values show of themselves: one line as text, and plain tables with all text escaped."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest

import longrec
from longrec.comparison.plan import Plan
from longrec.comparison.results import Comparison, Failure
from longrec.core.errors import UsageError
from longrec.evaluation.report.contents import Cost, ReportRow

EVIL = "<script>alert('x')</script>&amp;"


class Page(HTMLParser):
    """Elements that are open at the end, all that there were, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open, self.names, self.styles, self.text = [], set(), set(), ""
        self.feed(html)
        assert not self.open, f"{self.open} were not closed"

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.names.add(tag)
        assert not dict(attributes).keys() - {"style"}, "nothing that runs or loads"
        self.styles |= {text for _, text in attributes}

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    place = tmp_path_factory.mktemp(EVIL.replace("/", "|"))
    random = np.random.default_rng(0)
    log = pl.DataFrame(
        {
            "user": [f"{EVIL} {n % 30}" for n in range(400)],
            "item": [f"{EVIL} {n}" for n in random.integers(0, 20, 400)],
            "time": np.arange(400) * 3600,
        }
    )
    data = longrec.prepare(log, place / "h", time_unit="s")
    settings = {"dim": 8, "layers": 1, "max_epochs": 1}
    rec = longrec.train(data, "elastic", place / "run", **settings)
    metrics = longrec.evaluate(rec)
    plan = Plan(str(data.path), data.fingerprint, ("elastic",), 1.0, {}, 1, "cpu", 1)
    row = ReportRow(EVIL, "model", metrics, Cost(seconds=61.0), converged=False)
    failed = Failure(f"{EVIL} failed", 0, "training", EVIL, place / "log")
    compared = Comparison(place / "c", plan, metrics.leading, [row], [], [failed], [EVIL])
    return {
        "events": longrec.read_events(log, time_unit="s"),
        "histories": data,
        "recommender": rec,
        "metrics": metrics,
        "comparison": compared,
        "explanation": rec.explain(f"{EVIL} 3", data.users[0]),
    }


@pytest.mark.parametrize(
    "kind", ["events", "histories", "recommender", "metrics", "comparison", "explanation"]
)
def test_values_show_themselves_as_plain_tables_without_a_line_of_html_from_outside(house, kind):
    value = house[kind]
    page = Page(value._repr_html_())
    assert page.names <= {"div", "b", "p", "table", "thead", "tbody", "tr", "th", "td"}
    assert page.styles <= {"text-align:left", "text-align:right"}, "no colours of its own"
    if kind in ("histories", "explanation", "comparison"):
        assert EVIL in page.text
    text = repr(value)
    assert re.fullmatch(r"[A-Z]\w+\(.*\)", text), "one line"
    assert len(text) < 300


def test_what_they_say(house):
    assert "30 users, 20 items, 400 events, 1970-01-01 to 1970-01-17" in repr(house["histories"])
    metrics = house["metrics"]
    low, high = metrics.intervals["served/ndcg@10"]
    assert repr(metrics) == (
        f"Metrics(served/ndcg@10 {metrics['served/ndcg@10']:.4f} ({low:.4f} to {high:.4f}), "
        "test, leave-one-out, 30 targets)"
    )
    assert f"{metrics['unfiltered/hr@20']:.4f}" in metrics._repr_html_()
    assert "Baseline(served/ndcg@10" in repr(metrics.baselines["popularity"])
    rec = house["recommender"]
    kept = rec.provenance["training"]["validation"]["served/ndcg@10"]
    assert repr(rec).startswith(
        f"Recommender(elastic, 20 items, validation NDCG@10 as served {kept:.4f}"
    )
    assert "dim=8, layers=1, gaps=True, max_epochs=1" in rec._repr_html_()
    compared = house["comparison"]
    assert f"{EVIL} {metrics['served/ndcg@10']:.4f}, 1 failed)" in repr(compared)
    assert "not converged" in compared._repr_html_()
    assert repr(rec.catalog) == "Catalog(20 items, ids of type String)"
    with rec.open_stream(str(house["histories"].path.parent / "users"), "process") as stream:
        assert re.fullmatch(r"Stream\(.lmdb://.*users., elastic\)", repr(stream))
    assert repr(stream).endswith("closed)")


def test_the_version_is_that_of_the_source():
    assert re.fullmatch(r"\d+\.\d+\.\d+", longrec.__version__)
    assert "__version__" in dir(longrec)


@pytest.mark.parametrize("model", ["elastic", "gru4rec"])
def test_item_frames_hold_what_is_scored(house, model):
    data = house["histories"]
    rec = longrec.train(data, model, dim=8, layers=1, gaps=True, max_epochs=1, transitions=0)
    frame = rec.item_frame()
    assert frame.columns == ["item", "count", "vector"] + ["bias"] * (model == "gru4rec")
    assert frame.schema["vector"] == pl.Array(pl.Float32, 8)
    assert frame["item"].to_list() == data.catalog.ids.to_list()
    scored = rec.scorer.item_vectors()[1:].detach().numpy()
    columns = [frame["vector"].to_numpy()]
    columns += [frame["bias"].to_numpy()[:, None]] if model == "gru4rec" else []
    assert np.array_equal(np.hstack(columns), scored)


def test_an_item_frame_of_a_model_without_vectors_is_refused(house):
    with pytest.raises(UsageError, match="popularity counts items"):
        longrec.train(house["histories"], "popularity").item_frame()
