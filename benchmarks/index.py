"""Time ways to find ten items, on a trained run and users of its own data, one at a time.

    python benchmarks/index.py RUN [--only scan ivf] [--excluded .5] [--threads 2]

A user's seen items are excluded, and with --excluded this share of all items, drawn for each user.
Prints per way and setting recall@10 against exact search, p50 and p99 in milliseconds of one thread
(of its processor time: what else the machine does counts less so), and once per way the seconds of
its making on --threads and its MiB beside the vectors.

exact   inner products in float32
scan    the same through 8 bits (longrec.retrieval.int8_scan)
index   `longrec index`'s approximate one, as it is set
ivf     the same, with more and more cells looked into: faiss, inverted file, vectors in 8 bits
flat    its vectors in float32
pq      faiss, inverted file, 4-bit codes by fast scan, the best 400 scored in full
hnsw    faiss, graph                      usearch, usearch8   usearch's graph, float32 and 8 bits
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

import longrec
from longrec.core.console import progress_bar
from longrec.recommender import Recommender
from longrec.retrieval.approximate import CellIndex
from longrec.retrieval.cells import build_cells
from longrec.retrieval.exact import ExactIndex
from longrec.retrieval.index import Index, as_booleans
from longrec.retrieval.index_cache import open_index
from longrec.retrieval.recall import K, Queries, queries_of

Search = Callable[[int], np.ndarray]
"""Number of a query -> item indices found."""
EDGES, AT_BUILD = 24, 80
"""Edges of a graph's node, and candidates looked at for them."""


class Way(NamedTuple):
    """A structure that is made: its settings, each with its search, and its bytes."""

    settings: Iterator[tuple[str, Search]]
    size: int


class Bench:
    """Queries, and every way to answer them."""

    def __init__(self, recommender: Recommender, queries: Queries, threads: int) -> None:
        self.recommender, self.queries, self.threads = recommender, queries, threads
        self.vectors = recommender.item_vectors().numpy()
        self.n_items, self.width = len(self.vectors) - 1, self.vectors.shape[1]
        self.users = np.ascontiguousarray(queries.h.numpy())

    def exact(self) -> Way:
        index = ExactIndex(self.recommender.scorer, in_8_bits=False)
        return self._one(index, 0)

    def scan(self) -> Way:
        index = ExactIndex(self.recommender.scorer, in_8_bits=True)
        return self._one(index, self.vectors.size)

    def index(self) -> Way:
        index = open_index(self.recommender, "approximate").index
        assert isinstance(index, CellIndex)
        return self._one(index, self._bytes(index.cells), f"{index.probes} cells")

    def ivf(self) -> Way:
        cells = build_cells(self.vectors)

        def settings() -> Iterator[tuple[str, Search]]:
            for many in (4, 8, 16, 32, 64, 128):
                index = CellIndex(self.recommender.scorer, cells, many)
                yield f"{many} cells", self._search(index)

        return Way(settings(), self._bytes(cells))

    def flat(self) -> Way:
        return self._cells(f"IVF{self._many()},Flat", K)

    def pq(self) -> Way:
        return self._cells(f"IVF{self._many()},PQ{self.width // 2}x4fs", 40 * K)

    def hnsw(self) -> Way:
        import faiss

        index = faiss.IndexHNSWFlat(self.width, EDGES, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = AT_BUILD
        index.add(self.vectors)

        def settings() -> Iterator[tuple[str, Search]]:
            for wide in (32, 64, 128, 256, 512, 1024):

                def search(at: int, wide: int = wide) -> np.ndarray:
                    options = faiss.SearchParametersHNSW(sel=self._allowed(at), efSearch=wide)
                    return index.search(self.users[at : at + 1], K, params=options)[1][0]

                yield f"ef {wide}", search

        return Way(settings(), self._bytes(index))

    def usearch(self, kind: str = "f32") -> Way:
        from usearch.index import Index as Graph

        graph = Graph(
            ndim=self.width,
            metric="ip",
            dtype=kind,
            connectivity=EDGES,
            expansion_add=AT_BUILD,
        )
        # In 8 bits it takes numbers from -1 to 1.
        small = self.vectors[1:] / np.linalg.norm(self.vectors, axis=1).max()
        graph.add(np.arange(1, self.n_items + 1), small, threads=self.threads)
        users = self.users / np.linalg.norm(self.users, axis=1, keepdims=True)
        out = as_booleans(self.queries.excluded, self.n_items)
        # It has no filter in Python: so many more are asked for as are excluded, and half as many.
        more = int(1.5 * np.median(out.sum(1)))

        def settings() -> Iterator[tuple[str, Search]]:
            for wide in (64, 128, 256, 512, 1024):

                def search(at: int, wide: int = wide) -> np.ndarray:
                    graph.expansion_search = wide
                    items = graph.search(users[at], K + more, threads=1).keys.astype(np.int64)
                    return self._best(at, items[~out[at, items]])

                yield f"ef {wide}", search

        return Way(settings(), int(graph.memory_usage))

    def usearch8(self) -> Way:
        return self.usearch("i8")

    def _cells(self, recipe: str, near: int) -> Way:
        """An inverted file of rounded vectors, whose best ones are scored in full."""
        import faiss

        index = faiss.index_factory(self.width, recipe, faiss.METRIC_INNER_PRODUCT)
        index.cp.niter, index.cp.max_points_per_centroid = 8, 64
        index.train(self.vectors[1:])
        index.add(self.vectors)

        def settings() -> Iterator[tuple[str, Search]]:
            for many in (4, 8, 16, 32, 64, 128):

                def search(at: int, many: int = many) -> np.ndarray:
                    options = faiss.SearchParametersIVF(sel=self._allowed(at), nprobe=many)
                    items = index.search(self.users[at : at + 1], near, params=options)[1][0]
                    return self._best(at, items[items > 0])

                yield f"{many} cells", search

        return Way(settings(), self._bytes(index))

    def _many(self) -> int:
        return int(1 << max(0, round(np.log2(self.n_items / 250))))

    def _allowed(self, at: int) -> Any:
        import faiss

        self._bits = faiss.IDSelectorBitmap(self.queries.excluded[at])
        return faiss.IDSelectorNot(self._bits)

    def _best(self, at: int, items: np.ndarray) -> np.ndarray:
        found: np.ndarray = items[np.argsort(-(self.vectors[items] @ self.users[at]))[:K]]
        return found

    def _search(self, index: Index) -> Search:
        def search(at: int) -> np.ndarray:
            here = slice(at, at + 1)
            found = index.search(self.queries.h[here], K, self.queries.excluded[here])
            return found.items[0].numpy()

        return search

    def _one(self, index: Index, size: int, words: str = "") -> Way:
        return Way(iter([(words, self._search(index))]), size)

    def _bytes(self, index: Any) -> int:
        import faiss

        return len(faiss.serialize_index(index))


WAYS = ("exact", "scan", "index", "ivf", "flat", "pq", "hnsw", "usearch", "usearch8")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("--only", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--excluded", type=float, default=0.0)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    import faiss

    recommender = longrec.load(given.run)
    queries = queries_of(recommender)
    random, n_items = np.random.default_rng(0), recommender.catalog.n_items
    if given.excluded:
        more = random.random((len(queries.h), 8 * queries.excluded.shape[1])) < given.excluded
        queries = queries._replace(
            excluded=queries.excluded | np.packbits(more, 1, bitorder="little")
        )
    bench = Bench(recommender, queries, given.threads)
    torch.set_num_threads(1)
    [(_, best)] = bench.exact().settings
    truth = [set(best(at).tolist()) for at in range(len(queries.h))]
    print(f"{n_items:,} items, width {bench.width}, {queries.words}")
    print("| way | setting | recall@10 | p50 ms | p99 ms | made in s | MiB |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with progress_bar("ways") as progress:
        for number, name in enumerate(given.only):
            progress(number, len(given.only), name)
            faiss.omp_set_num_threads(given.threads)
            torch.set_num_threads(given.threads)
            began = time.perf_counter()
            way: Way = getattr(bench, name)()
            made = f"{time.perf_counter() - began:.1f} | {way.size / 2**20:.0f}"
            faiss.omp_set_num_threads(1)
            torch.set_num_threads(1)
            for words, search in way.settings:
                taken, hits = [], 0
                for at in range(len(truth)):
                    began = time.thread_time()
                    items = search(at)
                    taken.append(1e3 * (time.thread_time() - began))
                    hits += len(truth[at] & set(items.tolist()))
                share = hits / sum(map(len, truth))
                p50, p99 = np.quantile(taken, [0.5, 0.99])
                print(
                    f"| {name} | {words} | {share:.4f} | {p50:.3f} | {p99:.3f} | {made} |",
                    flush=True,
                )
                made = " | "
                if share > 0.995:
                    break


if __name__ == "__main__":
    main()
