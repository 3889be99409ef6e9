"""Which items may be recommended: what callers exclude, what they choose among, and rules.

A list of ids, or a rule, is for all users; a list of such lists, or rules, has one for each user.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from types import GeneratorType
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from longrec.core.arguments import described
from longrec.core.arrays import Ints
from longrec.core.errors import UsageError
from longrec.data.catalog import Catalog
from longrec.data.given_ids import check_ids, is_list
from longrec.data.given_rows import is_file, read_ids
from longrec.data.item_table import ItemTable
from longrec.data.unknown_ids import unknown_items
from longrec.retrieval.index import as_bits

WANTED = "a list of item ids, or one such list for each user"
SO = {"exclude": "They would not be recommended anyway", "among": "They cannot be recommended"}
"""What becomes of items that the model does not know."""


class Restriction(NamedTuple):
    """Items that may not be recommended, as `Index.search` takes them.

    Attributes
    ----------
    common : (n_items // 8 + 1,) bits of what nobody is to get, or None.
    own : what each user is not to get besides, made when it is asked for; None: nothing.
    """

    common: np.ndarray | None = None
    own: Callable[[int], np.ndarray | None] | None = None

    def behind(self, users: int) -> Restriction:
        """The same without the first users, so that the next one has the number 0."""
        own = self.own
        return self if own is None else Restriction(self.common, lambda user: own(user + users))

    def row(self, user: int) -> np.ndarray | None:
        """The bits of what a user, by its number, is not to get."""
        own = None if self.own is None else self.own(user)
        return _both(self.common, own)

    def rows(self, users: Ints, seen: np.ndarray | None) -> np.ndarray | None:
        """The bits for some users: (n, bytes), or (1, bytes) for all of them alike, or None.

        seen : (n, bytes), what each is not to get besides; it may be written to.
        """
        if self.own is None:
            if seen is None or self.common is None:
                return seen if self.common is None else self.common[None]
            seen |= self.common
            return seen
        found = {place: self.row(user) for place, user in enumerate(users.tolist())}
        for place, one in found.items():
            if one is not None:
                seen = np.zeros((len(users), len(one)), np.uint8) if seen is None else seen
                seen[place] |= one
        return seen


ANY_ITEM = Restriction()


def restriction(
    catalog: Catalog,
    users: int,
    exclude: Any = None,
    among: Any = None,
    where: Any = None,
    table: Callable[[], ItemTable] | None = None,
    item: str | None = None,
) -> tuple[Restriction, list[str]]:
    """What callers may ask for, and what to tell of it.

    Parameters
    ----------
    catalog : Catalog
    users : int
        How many there are.
    exclude, among : ids, a list of ids for each user, path, open file, or None
        What is not to be recommended, and what alone is; None: nothing, and everything.
    where : str, a list of one for each user, or None
        A rule by columns of the item table.
    table : callable or None
        Gives the item table.
    item : str or None
        What a file's column of items may be called beside the names that are recognised.

    Raises
    ------
    UsageError
        When something is of another shape, or no rule.
    DataError
        When a file cannot be read.
    """
    told: list[str] = []
    barred = [
        _by_ids(catalog, users, "exclude", exclude, told, item),
        _by_ids(catalog, users, "among", among, told, item),
    ]
    if where is not None:
        if table is None:
            raise UsageError("where is a rule by an item table: give that, too, as items=")
        barred.append(_by_rules(catalog, users, where, table(), told))
    common: np.ndarray | None = None
    own: list[Callable[[int], np.ndarray | None]] = []
    for one in barred:
        if callable(one):
            own.append(one)
        else:
            common = _both(common, one)

    def of_user(user: int) -> np.ndarray | None:
        found = None
        for one in own:
            found = _both(found, one(user))
        return found

    return Restriction(common, of_user if own else None), told


def short_lists(
    ids: pl.Series, counts: Ints, k: int, what: str, why: str, mend: str = ""
) -> list[str]:
    """What to tell where lists have fewer than k items, and which have none.

    ids : (n,) whose lists they are, `what` they name; counts : (n,) items of each.
    """
    told = []
    for which, words in [
        ((counts > 0) & (counts < k), f"fewer than {k:,} items"),
        (counts == 0, "no item"),
    ]:
        some = ids.filter(pl.Series(which))
        if len(some):
            shown = ", ".join(map(repr, some.head(3).to_list())) + (", …" if len(some) > 3 else "")
            get = "gets" if len(some) == 1 else "get"
            told.append(
                f"{len(some):,} of {len(ids):,} {what} {get} {words}, since {why}: {shown}{mend}"
            )
    return told


def rule_bits(catalog: Catalog, table: ItemTable, rule: str) -> np.ndarray:
    """The bits of the items for which a rule is not true."""
    return ~as_bits(catalog.find(table.items_where(rule)), catalog.n_items)


Barred = np.ndarray | Callable[[int], np.ndarray | None] | None
"""The bits for all users, or those for one by its number."""


def _by_ids(
    catalog: Catalog, users: int, name: str, given: Any, told: list[str], item: str | None
) -> Barred:
    """What a list of ids, `name`, bars."""
    if given is None:
        return None
    given = read_ids(given, "item", item) if is_file(given) else given
    given = list(given) if isinstance(given, Set | GeneratorType) else given
    if not is_list(given):
        raise UsageError(f"{name} is {described(given)}; give {WANTED}")
    excludes = name == "exclude"

    def bits(items: Ints | None) -> np.ndarray | None:
        if items is None or (excludes and not len(items)):
            return None
        found = as_bits(items, catalog.n_items)
        return found if excludes else ~found

    if not len(given) or not all(one is None or is_list(one) for one in given):
        ids = check_ids(name, given, WANTED)
        items = _found(catalog, ids)
        told += unknown_items(ids, items, catalog, f"items in {name}", SO[name])
        return bits(items)
    if len(given) != users:
        raise UsageError(f"{name} has {len(given):,} lists for {users:,} users: give one for each")
    lists = [
        None if one is None else check_ids(f"{name}.{number}", one, WANTED)
        for number, one in enumerate(given)
    ]
    flat = [item for one in lists if one is not None for item in one]
    indices = _found(catalog, flat)
    told += unknown_items(flat, indices, catalog, f"items in {name}", SO[name])
    lengths = [0 if one is None else len(one) for one in lists]
    parts = np.split(indices, np.cumsum(lengths)[:-1])
    own = [None if one is None else part for one, part in zip(lists, parts, strict=True)]
    return lambda user: bits(own[user])


def _by_rules(
    catalog: Catalog, users: int, where: Any, table: ItemTable, told: list[str]
) -> Barred:
    """What rules bar, and how many items fit them."""
    if isinstance(where, str):
        rules: list[Any] = [where]
    elif is_list(where) and len(where) == users:
        rules = list(where)
        odd = [one for one in rules if one is not None and not isinstance(one, str)]
        if odd:
            raise UsageError(f"where has a rule {described(odd[0])}; each is text, or None")
    else:
        what = f"has {len(where):,} rules" if is_list(where) else f"is {described(where)}"
        raise UsageError(f"where {what}; give one rule, or one for each of {users:,} users")
    of_rule = {rule: rule_bits(catalog, table, rule) for rule in set(rules) if rule is not None}
    lacking = catalog.n_items - int(np.count_nonzero(_in(catalog, table)))
    if lacking:
        told.append(
            f"{lacking:,} of {catalog.n_items:,} items of the catalog are not in {table.name}: no "
            "rule holds for them"
        )
    return of_rule[where] if isinstance(where, str) else lambda user: of_rule.get(rules[user])


def _in(catalog: Catalog, table: ItemTable) -> np.ndarray:
    """Which items of the catalog a table has, (n_items + 1,) bool."""
    there = np.zeros(catalog.n_items + 1, bool)
    there[catalog.find(table.frame[table.item])] = True
    there[0] = False
    return there


def _found(catalog: Catalog, ids: Sequence[Any] | pl.Series) -> Ints:
    return catalog.find(ids) if len(ids) else np.zeros(0, np.int64)


def _both(one: np.ndarray | None, other: np.ndarray | None) -> np.ndarray | None:
    """What either bars."""
    if one is None or other is None:
        return other if one is None else one
    both: np.ndarray = one | other
    return both
