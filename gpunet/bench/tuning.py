"""Times the tiles of each product that convolutions launch, and writes those that beat the
predicted ones to a table."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from gpunet.backends.cuda.backend import CudaBackend
from gpunet.backends.cuda.tile_file import Entry, arguments_of, choice_of, write_tiles
from gpunet.backends.cuda.tiles import Layout, candidates, lay_out
from gpunet.bench.contenders import Spec
from gpunet.bench.convolutions import parts, problem
from gpunet.bench.primitives import GpunetPrimitive, Problem, TimedCalls, set_count
from gpunet.bench.timing import NOISE
from gpunet.cuda.description import Description
from gpunet.cuda.tile_table import TileChoice, TiledProduct, TileTable, tiles_of
from gpunet.progress import track

SPLITS = 3
"""Numbers of splits that are timed for each tile: those that are predicted to be the fastest."""
SHORTLIST = 1.25
"""After the first round, layouts that took longer than the fastest one times this are left out."""


@dataclass(frozen=True)
class Noting(TileTable):
    """A table that chooses nothing, and notes the products that it is asked for."""

    asked: list[TiledProduct] = field(default_factory=list, compare=False, repr=False)

    def find(self, product: TiledProduct) -> TileChoice | None:
        """See `TileTable.find`."""
        self.asked.append(product)
        return None


def tune(cases: Iterable[dict[str, Any]], options: Namespace) -> int:
    """Time the layouts of the products of all cases, and write the table `options.tune` -> the exit
    status.

    A product that several cases launch is timed in the first of them. The table is written anew
    after each product.

    Raises:
        ValueError: a backend without tiles, or options of the other measurements.
    """
    tuner, entries = Tuner(options), list[Entry]()
    tuner.write(entries)
    for case in cases:
        for part in parts(case):
            entries += tuner.entries(part)
            tuner.write(entries)
    print(f"written to {options.tune}: {len(entries)} of {len(tuner.seen)} products, see GPUNET_TILES")
    return 0


class Tuner:
    """Times the layouts of products on one backend.

    Args:
        options: those of ``gpunet bench conv``.
    """

    def __init__(self, options: Namespace):
        spec = Spec("conv", "gpunet", options.backend, options.threads, options.precision)
        self.runner = GpunetPrimitive(spec, problem)
        backend, path = self.runner.backend, Path(options.tune)
        if not isinstance(backend, CudaBackend):
            raise ValueError(f"bench: --tune takes a CUDA backend but --backend is {backend.name}")
        if options.against or options.output:
            raise ValueError("bench: --tune takes neither --against nor --output, for it writes its own file")
        if path.suffix != ".json":
            raise ValueError(f"bench: --tune is {path} but names a .json file")
        self.path, self.options = path, options
        self.device = backend.describe()["device"]
        self.description: Description = backend.description._replace(table=None)
        self.backend = backend.twin(description=self.description)
        self.seen: set[TiledProduct] = set()

    def write(self, entries: Sequence[Entry]) -> None:
        """Write the table of these entries."""
        write_tiles(self.path, self.device, self.description, entries)

    def entries(self, case: dict[str, Any]) -> list[Entry]:
        """Time the products of a case that are new -> those in which another layout than the
        predicted one is the fastest, by more than noise."""
        asked, timer = problem(case), self.runner.timer
        timer.clear()
        sets = [self.runner.upload(asked.inputs) for _ in range(set_count(timer, asked))]
        noting = Noting("noted", "", {})
        timer.run(partial(asked.run, self._with(noting), sets[0]))
        new = [product for product in dict.fromkeys(noting.asked) if product not in self.seen]
        self.seen.update(new)
        found = [self._fastest(product, asked, sets) for product in new]
        return [entry for entry in found if entry is not None]

    def _fastest(self, product: TiledProduct, asked: Problem, sets: list[dict[str, Any]]) -> Entry | None:
        predicted, *others = layouts_of(product, self.description)
        expected = self._results(predicted, product, asked, sets[0])
        calls: dict[Layout, TimedCalls] = {}
        for layout in track([predicted, *others], f"preparing {product.kernel}", "layout"):
            error = _difference(self._results(layout, product, asked, sets[0]), expected)
            if not error <= asked.tolerance:  # NaN is wrong too
                print(f"{title(product)}: {named(layout)} is left out: its result differs by {error:.1e}")
                continue
            runs = [partial(asked.run, self._forced(product, layout), inputs) for inputs in sets]
            calls[layout] = TimedCalls(self.runner.timer, runs)
        if predicted not in calls:  # its result was NaN, so that nothing can be compared with it
            return None
        times = shortlisted(calls, predicted, self.options.rounds, self.options.repeats)
        best, own = min(times, key=lambda layout: times[layout]), times[predicted]
        gains = best != predicted and times[best] < (1 - NOISE) * own
        said = f", {named(best)} {1e6 * times[best]:.2f} us" if gains else ", which nothing beats"
        print(f"{title(product)}: {named(predicted)} {1e6 * own:.2f} us{said}", flush=True)
        return Entry(product, choice_of(best), 1e6 * times[best], 1e6 * own) if gains else None

    def _results(
        self, layout: Layout, product: TiledProduct, asked: Problem, inputs: dict[str, Any]
    ) -> list[np.ndarray]:
        backend = self._forced(product, layout)
        outputs: list[Any] = []
        self.runner.timer.run(lambda: outputs.extend(asked.run(backend, inputs)))
        return [backend.to_numpy(y).astype(np.float32) for y in outputs]

    def _forced(self, product: TiledProduct, layout: Layout) -> CudaBackend:
        """The backend with a table that holds this one choice."""
        return self._with(TileTable("forced", named(layout), {product: choice_of(layout)}))

    def _with(self, table: TileTable) -> CudaBackend:
        return self.backend.twin(description=self.description._replace(table=table))


def layouts_of(product: TiledProduct, device: Description) -> list[Layout]:
    """The layouts of a product that are timed: the predicted one, and then of each tile those with
    the `SPLITS` best numbers of splits by the prediction."""
    tiles, (extents, options) = tiles_of(product), arguments_of(product)
    found = [lay_out(tiles, *extents, device, **options)]
    for tile in tiles:
        ranked = sorted(candidates([tile], *extents, device, **options), key=lambda pair: (pair[0], pair[1].splits))
        found += list(dict.fromkeys(layout for _, layout in ranked))[:SPLITS]
    return list(dict.fromkeys(found))


def shortlisted(calls: dict[Layout, TimedCalls], predicted: Layout, rounds: int, repeats: int) -> dict[Layout, float]:
    """Time layouts in turns -> the median seconds of those that stay, and of the predicted one.

    The first round only tells which of them stay.
    """
    first = {layout: median(timed.seconds(repeats)) for layout, timed in calls.items()}
    limit = SHORTLIST * min(first.values(), default=inf)
    names = [layout for layout in calls if layout == predicted or first[layout] <= limit]
    times: dict[Layout, list[float]] = {layout: [] for layout in names}
    for turn in range(rounds):
        for layout in names if turn % 2 == 0 else names[::-1]:
            times[layout] += calls[layout].seconds(repeats)
    return {layout: median(values) for layout, values in times.items()}


def title(product: TiledProduct) -> str:
    """A product as a line names it."""
    p = product
    terms = f", {p.terms} terms" if p.terms else ""
    return f"{p.kernel} {p.element}{terms}, {p.copies} of {p.rows}x{p.cols}x{p.depth}, gate {p.gate}"


def named(layout: Layout) -> str:
    """A layout as a line names it."""
    tile, splits = layout.tile, layout.splits
    return f"{tile.rows}x{tile.cols} by {tile.left}, {tile.right} in {splits} {'split' if splits == 1 else 'splits'}"


def _difference(got: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """The largest ‖y - y0‖ / ‖y0‖ of some results."""
    pairs = zip(got, expected, strict=True)
    return float(np.max([np.linalg.norm(y - y0) / max(float(np.linalg.norm(y0)), 1e-30) for y, y0 in pairs]))
