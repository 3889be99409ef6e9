"""The report: one sound HTML file that fetches nothing and lets no id become markup."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from longrec.core.errors import DataError
from longrec.evaluation.intervals import Difference
from longrec.evaluation.report.contents import Cost, Pair, Report, ReportRow, UserRecommendations
from longrec.evaluation.report.figures import pareto_front
from longrec.evaluation.report.page import render, write_report
from longrec.evaluation.summary import Metrics, summarise_ranks

COST = Cost(2518.0, 30, 12_345.6, 700 << 20, 412_345, 18_464, "its state")
EVIL = "<script>alert('1')</script>\"&$x$"
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """What a browser would see: tags, attributes, text, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def metrics(seed: int) -> Metrics:
    generator = np.random.default_rng(seed)
    n = 200
    ranks = generator.integers(1, 60, n)
    frame = pl.DataFrame(
        {
            "user": np.arange(n),
            "position": np.arange(n),
            "length": generator.integers(1, 1500, n),
            "rank_served": ranks,
            "rank": ranks,
            "rank_unfiltered": ranks + 1,
            "known": np.ones(n, dtype=bool),
            "repeat": np.zeros(n, dtype=bool),
        }
    )
    return summarise_ranks(frame, "leave-one-out", draws=50)


def log() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "epoch": [1, 2, 3],
            "step": [1, 2, 3],
            "seconds": [0.5, 1.0, 1.5],
            "loss": [7.0, 6.0, 5.5],
            "validation": [None, 0.1, None],
        }
    )


def memory_log() -> pl.DataFrame:
    used = {"memory_share": [0.5, 0.8125, 0.75], "memory_entropy": [0.7, 0.9, 0.8]}
    return log().with_columns(
        pl.Series("validation", [0.1, 0.3, 0.2]),
        *(pl.Series(name, values) for name, values in used.items()),
        memory_kl=pl.Series([2.0, 0.5, 1.0]),
    )


@pytest.fixture(scope="module")
def report() -> Report:
    rows = [
        ReportRow("elastic", "model", metrics(0), COST, True, "converged", memory_log()),
        ReportRow(EVIL, "model", metrics(1), Cost(900.0, 12), False, EVIL, log()),
        ReportRow(
            "popularity", "baseline", metrics(2), Cost(0.4), seeds=3, spread={"ndcg@10": 0.0123}
        ),
        ReportRow("attainable ceiling", "ceiling", metrics(3)),
        ReportRow("window of 50", "bound", {"ndcg@10": 0.21}),
    ]
    pairs = [
        Pair("elastic", "popularity", Difference(0.02, 0.01, 0.03, 0.001), 0.004),
        Pair("elastic", EVIL, Difference(0.05, 0.04, 0.06, 0.001), None),
    ]
    user = UserRecommendations(EVIL, [EVIL, 7], {"elastic": [(EVIL, 1.5), (8, 1.25)], EVIL: []})
    facts, failures = {EVIL: EVIL, "seed": "0"}, {"hydrarec": f"killed by {EVIL}"}
    return Report(EVIL, rows, [user], facts, f"One.\n\nTwo {EVIL}", pairs, failures)


@pytest.fixture(scope="module")
def text(report: Report) -> str:
    return render(report)


def test_is_sound_and_fetches_nothing(text: str):
    page = Page(text)
    assert {"script", "iframe", "object", "link", "img", "base", "form"}.isdisjoint(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "xlink:href", "action", "srcset", "data"):
            assert value.startswith("#"), (tag, name, value)
    assert "url(http" not in text
    assert "@import" not in text
    assert ("meta", "http-equiv", "Content-Security-Policy") in page.attributes


def test_ids_of_the_page_are_unique_and_every_use_has_its_id(text: str):
    page = Page(text)
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    used = {value[1:] for _, name, value in page.attributes if name == "xlink:href"}
    assert used
    assert used <= set(ids)


def test_no_id_becomes_markup(text: str):
    assert "<script" not in text
    page = Page(text)
    shown = "".join(page.texts)
    assert shown.count(EVIL) >= 10  # title, heading, tables, history, lists, facts, protocol


def test_figures_follow_the_theme_and_there_are_five(text: str):
    page = Page(text)
    assert page.tags.count("svg") == 5
    assert "currentColor" in text
    assert "#010203" not in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_unconverged_rows_and_bounds_rank_nothing(text: str):
    body = text[text.index("<tbody>") : text.index("</table>")]
    elastic, popularity = body.index("elastic"), body.index("popularity")
    unconverged, limits = body.index("not converged"), body.index("What is attainable")
    assert max(elastic, popularity) < unconverged < limits < body.index("attainable ceiling")
    assert body.count('<td class="rank"></td>') == 3
    assert "42 min" in body


def section(text: str, title: str) -> str:
    begin = text.index(f"<h2>{title}</h2>")
    return text[begin : text.index("</section>", begin)]


def test_pairs_have_p_values_between_rows_that_rank_and_the_others_are_apart(text: str):
    ranked, apart = section(text, "Pairs compared").split("Not converged")
    assert "+0.0200" in ranked
    assert "p 0.004" in ranked
    assert "alert" not in ranked
    assert "-0.0500" in apart  # the row that ranks nothing, minus elastic
    assert "-0.0600 to -0.0400" in apart
    assert "p 0" not in apart


def test_costs_and_use_of_memory_are_shown(text: str):
    costs = section(text, "Cost")
    for known in ("42 min", "12,346", "700 MiB", "412,345", "18.0 KiB", "its state", "15 min"):
        assert known in costs, known
    memory = section(text, "Use of the memory bank")
    kept = memory[: memory.index("<details>")]
    assert "0.8125" in kept  # of the best validation, not of the last
    assert "0.7500" not in kept
    assert "0.7500" in memory
    assert "3 seeds" in text
    assert "&plusmn; 0.0123" in text
    assert "killed by" in section(text, "Failed or not run")


def test_the_front_leaves_out_what_another_matches_for_less():
    assert pareto_front([(3, 0.5), (1, 0.2), (2, 0.2), (1, 0.1), (4, 0.4), (5, 0.9)]) == [
        (1, 0.2),
        (3, 0.5),
        (5, 0.9),
    ]
    assert pareto_front([]) == []


def test_as_served_leads_and_the_other_readings_are_named():
    page = render(Report("t", [ReportRow("elastic", "model", metrics(0))]))
    head = page[page.index("<thead>") : page.index("</thead>")]
    places = [
        head.index(f"NDCG@10, {words}")
        for words in ("as served", "seen items filtered", "unfiltered")
    ]
    assert places == sorted(places)


def test_little_or_nothing_to_show_still_renders():
    Page(render(Report("empty", [])))
    Page(render(Report("one", [ReportRow("x", "model", {"ndcg@10": 0.1})])))
    nothing = log().with_columns(pl.lit(None).alias("validation"))
    Page(render(Report("log", [ReportRow("x", "model", {}, Cost(1.0), log=nothing)])))


def test_write_is_whole_or_not_at_all(tmp_path: Path, report: Report, text: str, monkeypatch):
    path = write_report(tmp_path / "new" / "report.html", report)
    assert path.read_text(encoding="utf-8") == text  # the same report gives the same text
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(DataError, match=r"report\.html: cannot write the report: No space left"):
        write_report(path, Report("other", []))
    assert path.read_text(encoding="utf-8") == text
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
