"""Ids that nobody knows: how many, which, and why that may be."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from longrec.data.catalog import Catalog, as_ids

EXAMPLES = 3
"""Unknown ids that are shown."""
LOOKED_AT = 50
"""Unknown ids that are looked into for a cause."""
AROUND = " \t\r\n\"'[](){}"
"""What may stand around the ids of a list that was given as one text."""


class Guess(NamedTuple):
    """A known id that may have been meant: its text, how it is compared, and what to say."""

    meant: str
    form: str
    kind: str
    words: str


def unknown_line(
    what: str,
    unknown: Sequence[Any] | pl.Series,
    asked: int,
    where: str,
    known: pl.Series,
    count: int | None = None,
) -> str:
    """One line for people: how many ids nobody knows, examples, and the likely cause.

    Parameters
    ----------
    what : str
        Plural of what they name, such as "users".
    unknown : sequence of ids
        At least one.
    asked : int
        How many ids were asked for or read.
    where : str
        Who does not know them, such as "the model" or a path.
    known : polars.Series
        The ids that are known there.
    count : int or None
        How many of those asked for are unknown, where `unknown` has each once.
    """
    count = len(unknown) if count is None else count
    ids = list(dict.fromkeys(unknown))
    shown = ", ".join(repr(_text(one) if isinstance(one, bytes) else one) for one in ids[:EXAMPLES])
    more = ", …" if len(ids) > EXAMPLES else ""
    cause = likely_cause(ids, known)
    return (
        f"{count:,} of {asked:,} {what} {'is' if count == 1 else 'are'} unknown to "
        f"{where}: {shown}{more}" + (f". Likely cause: {cause}" if cause else "")
    )


def unknown_users(
    given: Sequence[Any] | pl.Series, rows: np.ndarray, known: pl.Series, where: str
) -> list[str]:
    """What to tell of users who are asked for, (n,) rows, -1 where unknown: no line or one."""
    unknown = [given[at] for at in np.flatnonzero(rows < 0).tolist()]
    if not unknown:
        return []
    line = unknown_line("users", unknown, len(rows), where, known)
    odd = as_ids(unknown, known.dtype, "user").null_count()
    others = f"; user is null for {odd:,}, which cannot be of type {known.dtype}" if odd else ""
    return [f"{line}. They get popular items{others}"]


def unknown_items(
    given: Sequence[Any] | pl.Series,
    found: np.ndarray,
    catalog: Catalog,
    what: str = "items of histories",
    so: str = "They are skipped",
) -> list[str]:
    """What to tell of items, (n,) indices of which 0 is unknown: no line or one.

    what : what they are; so : what becomes of them.
    """
    unknown = [given[at] for at in np.flatnonzero(found == 0).tolist()]
    if not unknown:
        return []
    return [f"{unknown_line(what, unknown, len(given), 'the model', catalog.ids)}. {so}"]


def unknown_events(count: int, read: int, source: Catalog, catalog: Catalog) -> list[str]:
    """What to tell of events in data with another catalog, of which `count` are of items that the
    recommender does not know: no line or one."""
    if not count:
        return []
    unknown = source.ids.filter(catalog.find(source.ids) == 0)
    known = catalog.ids
    line = unknown_line("items of events", unknown, read, "the model", known, count)
    return [f"{line}. They are skipped"]


def likely_cause(unknown: Sequence[Any], known: pl.Series) -> str | None:
    """Why ids match nobody: how the most of them that can be explained are explained.

    None where nothing near them is known. Costs one pass over the known ids.
    """
    if not len(known):
        return "no id is known at all"
    looked_at = list(unknown)[:LOOKED_AT]
    guesses = {id_: list(_guesses(id_)) for id_ in looked_at if id_ is not None}
    near = _near(known, [guess for of_id in guesses.values() for guess in of_id])
    found = list[Guess]()
    for of_id in guesses.values():
        found += [guess for guess in of_id if (guess.form, guess.meant) in near][:1]
    if found:
        [(kind, _)] = Counter(guess.kind for guess in found).most_common(1)
        first = next(guess for guess in found if guess.kind == kind)
        return first.words.format(near=repr(near[first.form, first.meant]))
    return _other_type(looked_at, known)


FORMS: Mapping[str, Callable[[pl.Series], pl.Series]] = {
    "same": lambda text: text,
    "folded": lambda text: text.str.strip_chars().str.to_lowercase(),
    "no zeros": lambda text: text.str.strip_chars_start("0"),
}
"""How known ids are written to be compared with what may have been meant."""


def _guesses(id_: Any) -> Iterator[Guess]:
    """What may have been meant by an id, the likeliest first."""
    text = _text(id_)
    shown = repr(text if isinstance(id_, bytes) else id_)
    parts = [part.strip(AROUND) for part in re.split(r"[,;|\s]+", text.strip(AROUND))]
    if len(parts) > 1:
        words = f"{shown} looks like {len(parts)} ids in one, such as {{near}}: give each alone"
        yield from (Guess(part, "same", "list", words) for part in parts if part)
    elif parts[0] != text.strip():
        words = f"{shown} has quotes or brackets that {{near}} has not"
        yield Guess(parts[0], "same", "quotes", words)
    if whole := re.fullmatch(r"\s*([+-]?\d+)\.0*\s*", text):
        words = f"{shown} is a decimal number where the id is {{near}}: give whole numbers"
        yield Guess(whole[1], "same", "decimal", words)
    elif re.fullmatch(r"[+-]?\d+", text):
        words = f"{shown} stands as {{near}} there: those ids were read as decimal numbers"
        yield Guess(f"{text}.0", "same", "read as decimal", words)
    if re.fullmatch(r"\d+", text):
        words = f"{shown} differs from {{near}} by leading zeros"
        yield Guess(text.lstrip("0"), "no zeros", "zeros", words)
    words = f"{shown} differs from {{near}} by capitals or spaces alone"
    yield Guess(text.strip().lower(), "folded", "case", words)


def _near(known: pl.Series, guesses: Sequence[Guess]) -> dict[tuple[str, str], Any]:
    """The known ids that were meant, by form and guess."""
    found = dict[tuple[str, str], Any]()
    text = known.cast(pl.String, strict=False) if known.dtype != pl.String else known
    for form, written in FORMS.items():
        wanted = list({guess.meant for guess in guesses if guess.form == form})
        if wanted:
            forms = written(text)
            hit = forms.is_in(wanted).fill_null(False)
            pairs = zip(forms.filter(hit).to_list(), known.filter(hit).to_list(), strict=True)
            found |= {(form, meant): id_ for meant, id_ in pairs}
    return found


def _other_type(unknown: Sequence[Any], known: pl.Series) -> str | None:
    """What to say where ids known and unknown are of different types."""
    sample = known[0]
    if known.dtype.is_integer():
        odd = [one for one in unknown if not re.fullmatch(r"[+-]?\d+", _text(one))]
        if odd:
            return f"ids there are whole numbers such as {sample}, and {odd[0]!r} is none"
    elif known.dtype == pl.String and not known.head(100).str.contains(r"^\d+$").any():
        odd = [one for one in unknown if re.fullmatch(r"[+-]?\d+(\.0*)?", _text(one))]
        if odd:
            return f"ids there are text such as {sample!r}, and {odd[0]!r} is a number"
    return None


def _text(id_: Any) -> str:
    return id_.decode("utf-8", "backslashreplace") if isinstance(id_, bytes) else str(id_)
