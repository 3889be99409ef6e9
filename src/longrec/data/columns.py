"""Which column is what: stated names, names that are recognised, and files that must agree."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from longrec.core.errors import UsageError
from longrec.core.format import listed
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


def plain_name(name: str) -> str:
    """A name without case, spaces, "_" and "-"."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


@dataclass(frozen=True)
class Roles:
    """Which column is what.

    Attributes
    ----------
    names : the column of each role: user, item, and perhaps time and order.
    recognised : roles whose column was found by its name rather than stated.
    problems : why that is not enough, each with its mend; () if it is.
    """

    names: dict[str, str]
    recognised: frozenset[str]
    problems: tuple[str, ...]


def find_roles(
    part: Part, stated: Mapping[str, str | None], further: Mapping[str, str], row_order: bool
) -> Roles:
    """Columns by role, and all that is wrong with them at once.

    Parameters
    ----------
    part : Part
    stated : the column that was named for each role, or None.
    further : other columns that must be there, and the option that named each.
    row_order : whether rows are in the order of events, so that no time is needed.
    """
    given = {name: role for role, name in stated.items() if name is not None} | dict(further)
    problems = [missing(part, name, given[name]) for name in given if name not in part.types]
    names = {role: name for role, name in stated.items() if name in part.types}
    by_plain: dict[str, list[str]] = {}
    for name in part.types:
        if name not in names.values():
            by_plain.setdefault(plain_name(name), []).append(name)
    recognised = set()
    for role, known in NAMES.items():
        for word in known.split() if stated.get(role) is None else []:
            found = by_plain.get(plain_name(word), [])
            if len(found) > 1:
                problems.append(
                    f"{listed(map(repr, found))} could each be the {role} column. Name one "
                    f"with {role}= (--{role})."
                )
            if found:
                names[role] = found[0]
                recognised.add(role)
                break
    problems += [
        f"No column looks like the {ROLES[role]}. Name it with {role}= (--{role})."
        for role in ("user", "item")
        if role not in names and stated.get(role) is None
    ]
    if names.get("user") is not None and names["user"] == names.get("item"):
        problems.append(f"{names['user']!r} cannot be both the user and the item column.")
    ordered = {"time", "order"} & set(names) or row_order or stated.get("time")
    if not (ordered or stated.get("order")):
        problems.append(_no_time(part))
    ordered_names = {role: names[role] for role in ROLES if role in names}
    return Roles(ordered_names, frozenset(recognised), tuple(problems))


def refusal(part: Part, problems: Iterable[str]) -> UsageError:
    """The error for a part whose columns do not do."""
    return UsageError(f"{part.name}: {' '.join(problems)} Its columns are {listed(part.types)}.")


def likely_type(part: Part, used: Iterable[str]) -> str | None:
    """The one unused column that looks like the types of events; None where it is not one."""
    plain = {plain_name(name) for name in TYPES}
    found = [name for name in part.types if plain_name(name) in plain and name not in used]
    return found[0] if len(found) == 1 else None


def missing(part: Part, name: str, option: str) -> str:
    """What to say of a column that is not there: the nearest names."""
    near = difflib.get_close_matches(name, part.types, n=3, cutoff=0.5)
    near += [column for column in part.types if plain_name(column) == plain_name(name) not in near]
    hint = f" Did you mean {' or '.join(dict.fromkeys(map(repr, near)))}?" if near else ""
    return f"It has no column {name!r} (given as {option}).{hint}"


def _no_time(part: Part) -> str:
    """What to say of a log that nothing orders."""
    likely = [name for name in part.types if plain_name(name) in ORDERS]
    hint = f" (perhaps order={likely[0]!r})" if likely else ""
    return (
        "No column looks like the time of events. Name it with time= (--time), or name a column "
        f"that orders events with order= (--order){hint}, or say that the order of rows counts "
        "with row_order=True (--row-order)."
    )
