"""Bars in a notebook: one display that is updated and goes, seldom, and in a real notebook."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from longrec.core import console, notebook_bar


@pytest.fixture
def shown(monkeypatch):
    """What a notebook was told to show, in the order of time."""
    shown: list[dict[str, str]] = []

    def display(bundle, raw, display_id):
        shown.append(bundle)
        return SimpleNamespace(update=lambda bundle, raw: shown.append(bundle))

    module = ModuleType("IPython.display")
    module.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(console, "in_notebook", True)
    return shown


def test_a_bar_is_one_display_and_goes_at_its_end(shown, monkeypatch):
    monkeypatch.setattr(notebook_bar, "PAUSE", 0)
    with console.progress_bar("ranking <b>") as update:
        update(1, 4)
        update(4, 4, "done")
    assert shown[0] == {"text/plain": "", "text/html": "<pre></pre>"}
    assert shown[-1] == {"text/plain": ""}
    half, whole = shown[-3], shown[-2]
    assert "ranking <b>" in half["text/plain"]
    assert "25%" in half["text/plain"]
    assert half["text/html"].startswith("<pre>ranking &lt;b&gt;")
    assert "100%" in whole["text/plain"]
    assert "\x1b" not in "".join(text for bundle in shown for text in bundle.values())


def test_many_updates_are_few_messages(shown):
    with console.progress_bar("ranking") as update:
        for done in range(5000):
            update(done, 5000)
    assert len(shown) < 50


def test_who_gives_nothing_sees_a_bar_where_a_person_looks_on(shown, monkeypatch):
    with console.shown(None, "ranking") as report:
        report(1, 2)
    assert shown
    shown.clear()
    with console.shown(False, "ranking") as report:
        assert report is None
    with console.shown(print, "ranking") as report:
        assert report is print
    monkeypatch.setattr(console, "in_notebook", False)
    with console.shown(None, "ranking") as report:
        assert report is None, "nobody sees it"
    assert not shown


@pytest.mark.slow
def test_a_real_notebook_shows_bars_without_a_warning(tmp_path):
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    import nbformat

    cells = [
        "import longrec, polars as pl\n"
        "log = pl.DataFrame({'user': [n % 40 for n in range(800)], 'time': range(800),"
        " 'item': [n * n % 23 for n in range(800)]})\n"
        "data = longrec.prepare(log, 'h', time_unit='s')\ndata",
        "rec = longrec.train(data, model='elastic', dim=8, layers=1, max_epochs=2)\nrec",
        "metrics = longrec.evaluate(rec)\nmetrics",
        "rec.recommend(users=[1, 2], k=3)",
        "longrec.compare(data, 'popularity', 1, 'c', baselines=False)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.outputs]
    assert not [one for one in outputs if one.get("name") == "stderr"]
    printed = "".join(one.text for one in outputs if one.output_type == "stream")
    assert "warning" not in printed.lower()
    assert "\x1b" not in printed
    assert printed.count("elastic  epoch") == 2
    tables = [one.data["text/html"] for one in outputs if one.output_type == "execute_result"]
    assert len(tables) == 5
    logs = [path.read_text() for path in (tmp_path / "c" / "logs").rglob("*.txt")]
    assert logs
    assert not any("\x1b" in text for text in logs)
