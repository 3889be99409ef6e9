"""Named public logs: fetched from their publishers, never copied into this project.

Each entry gives the publisher's own address, its digest where one is known, its terms and what to
cite. `get_public` downloads (or takes the file a user already has), checks, unpacks the one member
that holds events, and writes it as Parquet that `read_events` recognises.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from longrec.core.errors import DataError, UsageError, first_line
from longrec.data.frames import FRAME_ERRORS

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all if known
BLOCK = 1 << 20
RETRIES = 2
TIMEOUT = 60
"""Seconds without an answer of the publisher's server."""
RATINGS = {"user_id": pl.Int64, "item_id": pl.Int64, "rating": pl.Float64, "timestamp": pl.Int64}
"""Columns of the Parquet file; logs of other ids or without ratings differ in that."""


@dataclass(frozen=True)
class PublicData:
    """One public log.

    Attributes
    ----------
    name, title
        what `get_public` calls it, and its full name with its size.
    url
        the publisher's own address of the file.
    digest
        "md5:…" or "sha256:…" of that file, None where none is known: it is then told after the
        download.
    member
        the file inside the zip archive that holds the events, None for a file that is only gzipped.
    form
        how the events are written: "dat" (a::b::c::d), "csv", "tab", "json" (2014 Amazon reviews)
        or "checkins" (SNAP).
    terms, citation, page
        what the publisher allows, what to cite, and where it says so.
    """

    name: str
    title: str
    url: str
    digest: str | None
    member: str | None
    form: str
    terms: str
    citation: str
    page: str


_GROUPLENS = (
    "Research use. No commercial or revenue-bearing use without permission from GroupLens, no "
    "claim of endorsement, acknowledgement in publications; redistribution only where the README "
    "of that version allows it."
)
_HARPER = (
    "F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and Context. "
    "ACM Transactions on Interactive Intelligent Systems 5, 4: 19:1-19:19. doi:10.1145/2827872"
)
_AMAZON = (
    "The publisher states no licence beyond research use and asks for citation; the reviews remain "
    "their authors'."
)
_MCAULEY = (
    "J. McAuley, C. Targett, J. Shi, A. van den Hengel. 2015. Image-based recommendations on "
    "styles and substitutes. SIGIR."
)
_CHO = (
    "E. Cho, S. A. Myers, J. Leskovec. 2011. Friendship and Mobility: User Movement in "
    "Location-Based Social Networks. KDD."
)
_SNAP = "https://snap.stanford.edu/data"


_MOVIELENS = (  # size, its words, member, form, MD5
    ("100k", "100K (100,000 ratings)", "ml-100k/u.data", "tab", "0e33842e24a9c977be4e0107933c0723"),
    ("1m", "1M (1,000,209 ratings)", "ml-1m/ratings.dat", "dat",
     "c4d9eecfca2ab87c1945afe126590906"),
    ("10m", "10M (10,000,054 ratings)", "ml-10M100K/ratings.dat", "dat",
     "ce571fd55effeba0271552578f2648bd"),
    ("20m", "20M (20,000,263 ratings)", "ml-20m/ratings.csv", "csv",
     "cd245b17a1ae2cc31bb14903e1204af3"),
    ("25m", "25M (25,000,095 ratings)", "ml-25m/ratings.csv", "csv",
     "6b51fb2759a8657d3bfcbfc42b592ada"),
    ("32m", "32M (32,000,204 ratings)", "ml-32m/ratings.csv", "csv",
     "d472be332d4daa821edc399621853b57"),
)  # fmt: skip
_REVIEWS = (  # name, the publisher's category, reviews
    ("beauty", "Beauty", "198,502"),
    ("sports", "Sports_and_Outdoors", "296,337"),
    ("toys", "Toys_and_Games", "167,597"),
)
_ENTRIES = (
    *(
        PublicData(
            name=f"ml-{size}",
            title=f"MovieLens {words}",
            url=f"https://files.grouplens.org/datasets/movielens/ml-{size}.zip",
            digest=f"md5:{md5}",
            member=member,
            form=form,
            terms=_GROUPLENS,
            citation=_HARPER,
            page=f"https://grouplens.org/datasets/movielens/{size}/",
        )
        for size, words, member, form, md5 in _MOVIELENS
    ),
    *(
        PublicData(
            name=f"amazon-{name}-2014",
            title=f"Amazon reviews 2014, {category.replace('_', ' ')}, 5-core ({reviews} reviews)",
            url=f"{_SNAP}/amazon/productGraph/categoryFiles/reviews_{category}_5.json.gz",
            digest=None,
            member=None,
            form="json",
            terms=_AMAZON,
            citation=_MCAULEY,
            page="https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html",
        )
        for name, category, reviews in _REVIEWS
    ),
    *(
        PublicData(
            name=name,
            title=f"{name.capitalize()} check-ins (SNAP)",
            url=f"{_SNAP}/loc-{name}_totalCheckins.txt.gz",
            digest=None,
            member=None,
            form="checkins",
            terms="The publisher states no licence; offered for research, cite the paper.",
            citation=_CHO,
            page=f"{_SNAP}/loc-{name}.html",
        )
        for name in ("gowalla", "brightkite")
    ),
)
PUBLIC = {data.name: data for data in _ENTRIES}
"""All public logs that `get_public` knows, by name."""


def get_public(
    data: str | PublicData,
    folder: Path | str,
    *,
    file: Path | str | None = None,
    accept_terms: bool = False,
    progress: Progress | None = None,
    report: Callable[[str], None] | None = None,
) -> Path:
    """Fetch a public log and return the Parquet file to give to `prepare`.

    Parameters
    ----------
    data
        a name in `PUBLIC`, or an entry of one's own.
    folder
        where NAME.parquet goes, with NAME.json beside it (address, digest, terms, citation).
    file
        the publisher's file, if it is here already: nothing is downloaded.
    accept_terms
        must be True to download; the terms are in the error otherwise.
    progress
        called with the bytes so far and in all (None when the publisher does not say).
    report
        called with lines to print: terms, citation and digest.

    Raises
    ------
    UsageError
        for an unknown name, or terms that were not accepted.
    DataError
        when the transfer fails or is cut short, the digest differs, or the file is damaged; nothing
        is left behind then.
    """
    if isinstance(data, str):
        if data not in PUBLIC:
            raise UsageError(f"No public data is called {data!r}. Known: {', '.join(PUBLIC)}.")
        data = PUBLIC[data]
    report = report or (lambda line: None)
    folder = Path(folder)
    target = folder / f"{data.name}.parquet"
    if target.exists():
        report(f"{target} is here already.")
        return target
    report(data.title)
    report(f"  from   {data.url}")
    report(f"  terms  {data.terms}")
    report(f"  cite   {data.citation}")
    if file is None and not accept_terms:
        raise UsageError(
            f"{data.name} is offered under its publisher's terms ({data.page}): {data.terms} Pass "
            "accept_terms=True (--accept-terms) to download it."
        )
    if file is not None and not Path(file).is_file():
        raise DataError(f"{file}: no such file.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{data.name}.", dir=folder) as work:
            packed = _download(data.url, Path(work), progress) if file is None else Path(file)
            digest = _check_digest(data, packed)
            compared = "" if data.digest else " (none is published to compare)"
            report(f"  digest {digest}{compared}")
            events = Path(work) / "events"
            _unpack(data, packed, events)
            parquet = Path(work) / "events.parquet"
            try:
                _read_form(data.form, events).sink_parquet(parquet, compression="zstd")
            except FRAME_ERRORS as error:
                raise DataError(f"{data.name} is not as expected ({first_line(error)}).") from error
            keys = ("name", "title", "url", "terms", "citation")
            note = {key: getattr(data, key) for key in keys}
            note_file = Path(work) / "note.json"
            note_file.write_text(json.dumps(note | {"digest": digest}, indent=2), encoding="utf-8")
            os.replace(note_file, folder / f"{data.name}.json")
            os.replace(parquet, target)
    except OSError as error:
        raise DataError(f"{target} was not written: {first_line(error)}.") from error
    return target


def _download(url: str, folder: Path, progress: Progress | None) -> Path:
    """The publisher's file, in a folder of ours."""
    import pooch
    import requests

    def get(url: str, file: str, _: object) -> None:
        # A file that is gzipped must not be unpacked on its way, since digests are of the file.
        headers = {"User-Agent": "longrec", "Accept-Encoding": "identity"}
        with (
            requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer,
            open(file, "wb") as out,
        ):
            answer.raise_for_status()
            total = int(answer.headers.get("Content-Length", 0)) or None
            for block in answer.iter_content(BLOCK):
                out.write(block)
                if progress is not None:
                    progress(out.tell(), total)

    by_hand = "Try again, or download it by hand and pass it with file= (--file)."
    pooch.get_logger().setLevel("WARNING")
    downloads = pooch.create(
        folder, "", registry={"packed": None}, urls={"packed": url}, retry_if_failed=RETRIES
    )
    try:
        return Path(downloads.fetch("packed", downloader=get))
    except requests.HTTPError as error:
        answer = error.response
        assert answer is not None
        raise DataError(
            f"{url} answered {answer.status_code} ({answer.reason}). {by_hand}"
        ) from error
    except requests.RequestException as error:
        raise DataError(f"{url} could not be downloaded ({_cause(error)}). {by_hand}") from error


def _cause(error: Exception) -> str:
    """Why a connection failed, in the words of what failed first, without the tries after it."""
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    return first_line(error) if reason is None else str(reason).partition(": ")[2] or str(reason)


def _check_digest(data: PublicData, file: Path) -> str:
    """The file's digest as "algorithm:hex"; a DataError when it is not the known one."""
    import pooch

    algorithm, _, wanted = (data.digest or "sha256:").partition(":")
    found = pooch.file_hash(str(file), alg=algorithm)
    if wanted and found != wanted:
        raise DataError(
            f"{file.name if file.name != 'packed' else data.url} has {algorithm} {found}, but "
            f"{data.name} is known with {wanted}: the file is damaged or another version. Get it "
            f"again from {data.page}."
        )
    return f"{algorithm}:{found}"


def _unpack(data: PublicData, packed: Path, target: Path) -> None:
    """Write the one member that holds events; nothing else of an archive touches the disk."""
    try:
        with target.open("wb") as out:
            if data.member is not None:
                with zipfile.ZipFile(packed) as archive, archive.open(data.member) as member:
                    shutil.copyfileobj(member, out, BLOCK)
            else:
                with gzip.open(packed, "rb") as plain:
                    shutil.copyfileobj(plain, out, BLOCK)
    except KeyError as error:
        raise DataError(
            f"{packed.name}: the archive has no {data.member}; is it {data.name}?"
        ) from error
    except (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(
            f"{packed.name} is damaged ({first_line(error)}). Get it again from {data.page}."
        ) from error


def _read_form(form: str, events: Path) -> pl.LazyFrame:
    """Events with the columns user_id, item_id, rating (if any) and timestamp."""
    if form == "json":
        names = dict(zip(("reviewerID", "asin", "overall", "unixReviewTime"), RATINGS, strict=True))
        schema = dict(zip(names, (pl.String, pl.String, pl.Float64, pl.Int64), strict=True))
        return pl.scan_ndjson(events, schema=schema).select(names.keys()).rename(names)
    scan = partial(pl.scan_csv, events, has_header=False)
    if form == "checkins":
        schema = {"user_id": pl.Int64, "timestamp": pl.String, "latitude": pl.Float64,
                  "longitude": pl.Float64, "item_id": pl.String}  # fmt: skip
        lazy = scan(separator="\t", schema=schema, quote_char=None)
        when = pl.col("timestamp").str.to_datetime("%Y-%m-%dT%H:%M:%SZ").dt.epoch("s")
        return lazy.select("user_id", "item_id", timestamp=when)
    if form == "dat":
        # "1::1193::5::978300760" is seven fields between single colons, every other one empty.
        kinds = list(RATINGS.values())
        schema = {f"field_{i}": kinds[i // 2] if i % 2 == 0 else pl.String for i in range(7)}
        lazy = scan(separator=":", schema=schema, quote_char=None)
        return lazy.select(pl.col(f"field_{2 * i}").alias(name) for i, name in enumerate(RATINGS))
    if form == "tab":
        return scan(separator="\t", schema=RATINGS)
    return scan(separator=",", schema=RATINGS, skip_rows=1)  # the header
