"""The report: one sound HTML file that fetches nothing and lets no id become markup."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from longrec.core.errors import DataError
from longrec.evaluation.intervals import Difference
from longrec.evaluation.report.contents import Cost, Report, ReportRow, UserRecommendations
from longrec.evaluation.report.drawing import styles_of
from longrec.evaluation.report.figures import pareto_front
from longrec.evaluation.report.opening import opening
from longrec.evaluation.report.page import RESULT_KEYS, render, write_report
from longrec.evaluation.report.pairs import Pair
from longrec.evaluation.summary import LEADING, Metrics, summarise_ranks

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
    n = 900
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
    lists = {"elastic": [(EVIL, 1.5), (8, 1.25)], EVIL: []}
    user = UserRecommendations(EVIL, [EVIL, 7], lists, 8)
    facts, failures = {EVIL: EVIL, "seed": "0"}, {"hydrarec": f"killed by {EVIL}"}
    titles = {7: f"Heat {EVIL}", 8: "Casino"}
    return Report(EVIL, rows, [user], facts, f"One.\n\nTwo {EVIL}", pairs, failures, EVIL, titles)


@pytest.fixture
def no_figures(monkeypatch) -> None:
    """Drawing takes most of the time of a page."""
    monkeypatch.setattr("longrec.evaluation.report.page._figures", lambda *_: [])


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


@pytest.mark.usefixtures("no_figures")
def test_rows_stand_by_their_value_and_not_converged_is_a_mark_alone(report: Report):
    better = replace(report.rows[1], metrics=dict.fromkeys(RESULT_KEYS, 0.9))
    text = render(replace(report, rows=[report.rows[0], better, *report.rows[2:]]))
    body = text[text.index("<tbody>") : text.index("</table>")]
    unconverged, elastic, limits = map(body.index, ("not converged", "elastic", "attainable on"))
    assert unconverged < elastic < limits < body.index("attainable ceiling")
    assert '<td class="rank">1</td>' in body[:unconverged]
    assert "<strong>0.9000</strong>" in body
    assert body.count('<td class="rank"></td>') == 2  # of bounds alone
    assert "42 min" in body


def section(text: str, title: str) -> str:
    begin = text.index(f"<h2>{title}</h2>")
    return text[begin : text.index("</section>", begin)]


def test_pairs_have_p_values_between_rows_that_are_tested(text: str):
    pairs = section(text, "Pairs compared")
    assert "p 0.004" in pairs
    assert pairs.count("p 0") == pairs.count("<strong>+0.0200</strong>") == 1
    assert "-0.0500" in pairs  # the row that was still improving minus elastic, without a p
    assert "<strong>-0.0500" not in pairs


def row(name: str, value: float, low: float, **more) -> ReportRow:
    made = metrics(0)
    made = replace(made, estimates=made.estimates | {LEADING: value}, exclude_seen=True)
    ends = {LEADING: (low, 2 * value - low)}
    return ReportRow(name, more.pop("kind", "model"), replace(made, intervals=ends), **more)


def test_the_first_sentences_say_data_question_answer_and_what_is_undecided():
    rows = [
        row("popularity", 0.02, 0.01, kind="baseline"),
        row("elastic", 0.26, 0.25, converged=False, ended="max_minutes"),
        row("sasrec", 0.16, 0.15, converged=True, ended="converged"),
        row("gru4rec", 0.15, 0.14, converged=True, ended="converged"),
        ReportRow("best possible", "ceiling", {LEADING: 0.52}),
    ]
    pairs = [
        Pair("popularity", "elastic", Difference(-0.24, -0.25, -0.23, 0.001), None),
        Pair("sasrec", "elastic", Difference(-0.1, -0.12, -0.08, 0.001), None),
        Pair("gru4rec", "sasrec", Difference(-0.01, -0.03, 0.01, 0.3), 0.6),
        Pair("sasrec", "popularity", Difference(0.14, 0.1, 0.18, 0.001), 0.002),
    ]
    told = opening(Report("t", rows, pairs=pairs, data="A log: 900 users"), LEADING)
    assert told["data"] == "A log: 900 users. Measured on 900 users, one target each (test)."
    assert "(information: strict)" in told["question"]
    assert "but what the user has seen" in told["question"]
    assert told["answer"].startswith(
        "elastic has the highest NDCG@10, 0.2600 (95% interval 0.2500 to 0.2700), and was still "
        "improving when its training ended. It is ahead of sasrec (the next: 0.1600) by 0.1000, "
        "95% interval +0.0800 to +0.1200. "
    )
    assert "Where there is no p, one of the two was still improving" in told["answer"]
    assert "popularity (the best baseline: 0.0200) by 0.2400" in told["answer"]
    assert "elastic has 50% of it" in told["answer"]
    assert "sasrec and gru4rec (0.0100, 95% interval -0.0100 to +0.0300)" in told["undecided"]
    assert (
        "Still improving when training ended: elastic (stopped by the clock)" in told["undecided"]
    )
    assert "trained once" in told["undecided"]


def test_titles_stand_before_ids_and_the_item_that_came_next_is_marked(text: str):
    shown = section(text, "Recommendations")
    assert 'Casino <span class="id">8</span>' in shown
    assert '<strong>Casino <span class="id">8</span> &check;</strong>' in shown
    assert shown.count("&check;</strong>") == 1


def test_systems_differ_in_marker_and_kind_of_line_and_not_in_colour_alone():
    rows = [ReportRow(f"m{n}", "model", {}) for n in range(12)]
    styles = styles_of(rows).values()
    for part in ("color", "marker"):
        assert len({getattr(style, part) for style in styles}) == 12
    assert len({str(style.linestyle) for style in styles}) == 5


def test_markdown_has_the_same_sentences_and_tables(report: Report, tmp_path: Path):
    text = write_report(tmp_path / "report.md", report).read_text()
    lines = text.splitlines()
    assert "<script" not in text.replace("\\<script", "")
    assert any(line.startswith("**Answer.** ") for line in lines)
    heads = [line for line in lines if line.startswith("| # | model |")]
    assert len(heads) == 1
    columns = heads[0].count("|")
    begin = lines.index(heads[0])
    assert all(line.count("|") - line.count("\\|") == columns for line in lines[begin : begin + 7])
    assert "| elastic minus popularity | +0.0200 | +0.0100 to +0.0300 | 0.004 |" in lines
    assert "## Use of the memory bank" in lines


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


@pytest.mark.usefixtures("no_figures")
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
