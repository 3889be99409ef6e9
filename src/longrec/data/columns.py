"""Which column is what: stated names, names that are recognised, and files that must agree."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

import polars as pl

from longrec.core.errors import DataError, UsageError
from longrec.data.sources import Part

# Names as people write them, most telling first; compared without case, space, "_" and "-".
NAMES = {
    "user": "user_id user uid user_idx user_no reviewer_id visitor_id customer_id customer "
    "member_id account_id author_id profile_id client_id device_id session_id",
    "item": "item_id item iid item_idx product_id product movie_id parent_asin asin article_id "
    "click_article_id business_id book_id video_id song_id track_id artist_id recipe_id news_id "
    "content_id location_id venue_id poi_id game_id ad_id isbn sku",
    "time": "timestamp time ts datetime event_time event_timestamp unix_review_time unix_time "
    "click_timestamp click_time timestamp_ms created_at date review_time checkin_time",
}
ORDERS = ("position", "order", "sequence", "seq", "rank", "step", "idx", "index")
TYPES = (
    *("event_type", "type", "event", "event_name", "action", "action_type", "behavior"),
    *("behavior_type", "behaviour", "behaviour_type", "interaction", "interaction_type"),
)
ROLES = {"user": "user ids", "item": "item ids", "time": "times", "order": "the order of events"}


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def find_columns(
    part: Part, stated: dict[str, str | None]
) -> tuple[dict[str, str], frozenset[str]]:
    """Columns by role, and the roles that were recognised."""
    names: dict[str, str] = {}
    for role, name in stated.items():
        if name is not None and name not in part.schema:
            raise UsageError(missing(part, name, role))
        if name is not None:
            names[role] = name
    by_plain: dict[str, list[str]] = {}
    for name in part.schema:
        if name not in names.values():
            by_plain.setdefault(_plain(name), []).append(name)
    recognised = set()
    for role, known in NAMES.items():
        for word in [] if role in names else known.split():
            found = by_plain.get(_plain(word), [])
            if len(found) > 1:
                raise UsageError(
                    f"{part.name}: {' and '.join(map(repr, found))} could both be the {role} "
                    f"column. Name one with {role}=."
                )
            if found:
                names[role] = found[0]
                recognised.add(role)
                break
    for role in ("user", "item"):
        if role not in names:
            raise UsageError(
                f"{part.name}: no column looks like the {role} ids. Name it with {role}= "
                f"(--{role}); the columns are {', '.join(part.schema)}."
            )
    if names["user"] == names["item"]:
        raise UsageError(f"{names['user']!r} cannot be both the user and the item column.")
    return {role: names[role] for role in ROLES if role in names}, frozenset(recognised)


def likely_type(part: Part, used: Iterable[str]) -> str | None:
    """The one unused column that looks like the types of events; None where it is not one."""
    plain = {_plain(name) for name in TYPES}
    found = [name for name in part.schema if _plain(name) in plain and name not in used]
    return found[0] if len(found) == 1 else None


def missing(part: Part, name: str, role: str) -> str:
    """What to say of a column that is not there: the nearest names."""
    near = difflib.get_close_matches(name, part.schema, n=3, cutoff=0.5)
    near += [column for column in part.schema if _plain(column) == _plain(name) not in near]
    hint = f"Did you mean {' or '.join(dict.fromkeys(map(repr, near)))}? " if near else ""
    return (
        f"{part.name} has no column {name!r} (given as {role}). {hint}"
        f"Its columns are {', '.join(part.schema)}."
    )


def no_time(part: Part) -> str:
    """What to say of a log that nothing orders."""
    likely = [name for name in part.schema if _plain(name) in ORDERS]
    hint = f" (perhaps order={likely[0]!r})" if likely else ""
    return (
        f"{part.name}: no column looks like the time of events. Name it with time= (--time), or "
        f"name a column that orders events with order= (--order){hint}, or say that the order of "
        f"rows counts with row_order=True (--row-order). The columns are {', '.join(part.schema)}."
    )


def same_types(parts: list[Part], wanted: list[str]) -> list[Part]:
    """Parts reduced to the wanted columns, of one type each; a difference is a DataError."""
    first = parts[0]
    types = {name: first.schema[name] for name in wanted}
    for part in parts[1:]:
        for name in types:
            if name not in part.schema:
                raise DataError(
                    f"{part.name} has no column {name!r}, {first.name} has: the files are not one "
                    f"log. Its columns are {', '.join(part.schema)}."
                )
            ours, theirs = types[name], part.schema[name]
            if ours == theirs:
                continue
            if (
                ours.is_numeric()
                and theirs.is_numeric()
                and ours.is_integer() == theirs.is_integer()
            ):
                types[name] = pl.Int64() if ours.is_integer() else pl.Float64()
            else:
                raise DataError(
                    f"column {name!r} is {ours} in {first.name} and {theirs} in {part.name}. "
                    "Convert one, so that the same id (or time) is the same value in every file."
                )
    casts = [pl.col(name).cast(dtype) for name, dtype in types.items()]
    return [
        Part(p.name, p.frame.select(casts), types, p.text, p.path, p.separator)
        if len(parts) > 1
        else Part(p.name, p.frame.select(list(types)), types, p.text, p.path, p.separator)
        for p in parts
    ]
