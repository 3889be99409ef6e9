"""Cells of item vectors (an inverted file of faiss), and the arrays that they are kept as.

faiss reads its own files without bounds: one that claims a list of 10**12 items is given the memory
first. So what is kept are plain arrays, whose shapes follow from the vectors that they are of:

    centroids  (cells, D) float32    what an item's vector is held against to find its cell
    range      (2, D) float32        least value and spread of each number in 8 bits
    cell       (n_items,) int32      of the item of index i + 1
    codes      (n_items, D) uint8    its vector in 8 bits, less the centroid
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import log2
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from longrec.core.errors import DataError, UsageError
from longrec.core.shared import file_of, is_shared

PER_CELL, ROUNDS, SAMPLED = 250, 8, 64
"""Items of a cell on average; rounds of k-means that make cells, and items per cell they read."""
ADDED = 100_000
"""Items put into cells at once."""
EIGHT = 8
"""Room in a cell is for a multiple of so many items: indices begin at a multiple of 8 bytes."""
Shapes = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]


def build_cells(
    vectors: np.ndarray, progress: Callable[[float, float, str], None] | None = None
) -> Any:
    """Put item vectors (n_items + 1, D), row 0 being padding, into cells, under their indices."""
    faiss = faiss_package()
    n_items = len(vectors) - 1
    report = progress or (lambda done, total, words: None)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(torch.get_num_threads())
    try:
        report(0, n_items, "making cells")
        cells = _empty(n_items, vectors.shape[1])
        cells.cp.niter, cells.cp.max_points_per_centroid = ROUNDS, SAMPLED
        cells.cp.min_points_per_centroid = 1
        cells.train(vectors[1:])
        for start in range(1, n_items + 1, ADDED):
            part = vectors[start : start + ADDED]
            cells.add_with_ids(part, np.arange(start, start + len(part)))
            report(start + len(part) - 1, n_items, "filling cells")
    finally:
        faiss.omp_set_num_threads(threads)
    return cells


def shapes_of(n_items: int, width: int) -> Shapes:
    """Shapes and types of the arrays for so many item vectors of a width."""
    number, byte = np.dtype(np.float32), np.dtype(np.uint8)
    return {
        "centroids": ((_n_cells(n_items), width), number),
        "range": ((2, width), number),
        "cell": ((n_items,), np.dtype(np.int32)),
        "codes": ((n_items, width), byte),
    }


def arrays_of(cells: Any) -> dict[str, np.ndarray]:
    """Cells as arrays."""
    faiss, lists, width = faiss_package(), cells.invlists, cells.d
    cell = np.zeros(cells.ntotal, np.int32)
    codes = np.zeros((cells.ntotal, width), np.uint8)
    for number in range(cells.nlist):
        if size := lists.list_size(number):
            at = faiss.rev_swig_ptr(lists.get_ids(number), size) - 1
            cell[at] = number
            codes[at] = faiss.rev_swig_ptr(lists.get_codes(number), size * width).reshape(-1, width)
    return {
        "centroids": cells.quantizer.reconstruct_n(0, cells.nlist),
        "range": faiss.vector_to_array(cells.sq.trained).reshape(2, width),
        "cell": cell,
        "codes": codes,
    }


def lists_of(arrays: Mapping[str, np.ndarray], n_items: int, width: int) -> dict[str, Tensor]:
    """What is in each cell, from arrays; of what processes hold once, where they do.

    Returns
    -------
    dict
        "centroids" and "range" as they are; "sizes" (cells,) int64, items of each; "lists" uint8,
        for each cell the codes of its items and then their indices in 8 bytes each, both with
        room for `EIGHT` times some items.

    Raises
    ------
    DataError
        When they are not of so many vectors of that width, or hold what no cells have.
    """
    shapes = shapes_of(n_items, width)
    if {name: (array.shape, array.dtype) for name, array in arrays.items()} != shapes:
        raise DataError("its arrays are not those of these vectors")
    cell, codes, centroids = arrays["cell"], arrays["codes"], arrays["centroids"]
    if not (np.isfinite(centroids).all() and np.isfinite(arrays["range"]).all()):
        raise DataError("its cells have values that are no numbers")
    if cell.min() < 0 or cell.max() >= len(centroids):
        raise DataError("it has items in cells that there are none of")
    order = np.argsort(cell, kind="stable")
    ids, sorted_codes = order + 1, codes[order]
    sizes = np.bincount(cell, minlength=len(centroids)).astype(np.int64)
    places = _places(sizes, width)
    lists, first = np.zeros(places[-1].end, np.uint8), 0
    for size, place in zip(sizes.tolist(), places, strict=True):
        part = slice(first, first := first + size)
        lists[place.codes : place.codes + size * width] = sorted_codes[part].ravel()
        lists[place.ids : place.ids + 8 * size] = ids[part].view(np.uint8)
    made = {"centroids": centroids, "range": arrays["range"], "sizes": sizes, "lists": lists}
    return {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in made.items()}


def cells_of(lists: Mapping[str, Tensor], width: int) -> Any:
    """The cells of `lists_of`, which search as those do that the arrays were made of.

    Lists that processes hold once are read where they are.
    """
    faiss, sizes = faiss_package(), lists["sizes"].numpy()
    cells = _empty(int(sizes.sum()), width)
    cells.quantizer.add(lists["centroids"].numpy())
    faiss.copy_array_to_vector(lists["range"].numpy().ravel(), cells.sq.trained)
    places, content = _places(sizes, width), lists["lists"]
    in_a_file = _lists_in_a_file(content, sizes.tolist(), places, width)
    if in_a_file is not None:
        cells.replace_invlists(in_a_file, True)
    else:
        every = content.numpy()
        for number, (size, place) in enumerate(zip(sizes.tolist(), places, strict=True)):
            if size:
                codes = every[place.codes : place.ids]
                ids = every[place.ids : place.end].view(np.int64)
                cells.invlists.add_entries(number, size, faiss.swig_ptr(ids), faiss.swig_ptr(codes))
    cells.is_trained, cells.ntotal = True, int(sizes.sum())
    return cells


def _lists_in_a_file(content: Tensor, sizes: list[int], places: list[_Place], width: int) -> Any:
    """Lists that faiss maps, read alone, from the file that a tensor stands in; None where it is in
    none, or can be mapped no second time, for want of descriptors or addresses."""
    if not is_shared(content):
        return None
    faiss = faiss_package()
    lists, one = faiss.OnDiskInvertedLists(), faiss.OnDiskOneList()
    lists.nlist, lists.code_size, lists.read_only = len(sizes), width, True
    lists.prefetch_nthread = 0  # what is in memory need not be fetched by threads of their own
    path, first = file_of(content)
    for size, place in zip(sizes, places, strict=True):
        one.size, one.capacity, one.offset = size, place.room, first + place.codes
        lists.lists.push_back(one)  # a copy
    lists.filename, lists.totsize = path, first + len(content)
    try:
        lists.do_mmap()
    except RuntimeError:
        return None
    lists.this.disown()  # the cells own them
    return lists


class _Place(NamedTuple):
    """Where in "lists" the codes and indices of a cell begin, and how many it has room for."""

    codes: int
    ids: int
    end: int
    room: int


def _places(sizes: np.ndarray, width: int) -> list[_Place]:
    places, end = [], 0
    for size in sizes.tolist():
        room = -(-size // EIGHT) * EIGHT
        begin, end = end, end + room * (width + 8)
        places.append(_Place(begin, begin + room * width, end, room))
    return places


def _n_cells(n_items: int) -> int:
    return 1 << max(0, round(log2(max(1, n_items / PER_CELL))))


def _empty(n_items: int, width: int) -> Any:
    """Cells for so many vectors of a width, with nothing in them."""
    faiss = faiss_package()
    kind, metric = faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    quantizer = faiss.IndexFlatIP(width)
    return faiss.IndexIVFScalarQuantizer(quantizer, width, _n_cells(n_items), kind, metric)


def faiss_package() -> Any:
    """faiss, whose Python methods its own type stubs do not know.

    Raises
    ------
    UsageError
        When it is not installed.
    """
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise UsageError(
            "an approximate index needs the package faiss: pip install 'longrec[serve]', or choose "
            "the exact one"
        ) from error
    return faiss
