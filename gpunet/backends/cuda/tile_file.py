"""Tables of tiles as JSON files, which `gpunet bench conv --tune` writes and `GPUNET_TILES` names."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from gpunet.backends.cuda.tiles import Layout, layout_of, limits_of
from gpunet.cuda.description import Description
from gpunet.cuda.naming import ELEMENTS
from gpunet.cuda.tile_lists import GATES, TERMS, TILES
from gpunet.cuda.tile_table import TileChoice, TiledProduct, TileTable, tiles_of
from gpunet.files import PathLike, write_whole
from gpunet.version import __version__

VARIABLE = "GPUNET_TILES"
"""The environment variable that names a table."""
FORMAT = "gpunet-tiles-1"
KNOWN: dict[str, tuple[object, ...]] = {
    "kernel": tuple(name.removesuffix("_tiled") for name in TILES),
    "element": tuple(ELEMENTS.values()),
    "terms": (0, *dict.fromkeys(TERMS.values())),
    "gate": tuple(GATES),
}
"""The values that fields of a product may have, where there are few."""


class Entry(NamedTuple):
    """A product, the layout that was the fastest, and what it gains."""

    product: TiledProduct
    choice: TileChoice
    microseconds: float
    chosen_microseconds: float
    """With the layout that is predicted to be the fastest."""


def choice_of(layout: Layout) -> TileChoice:
    """A layout as a table names it."""
    tile = layout.tile
    return TileChoice(tile.rows, tile.cols, tile.left, tile.right, layout.splits)


def layout_in(product: TiledProduct, choice: TileChoice, device: Description) -> Layout | None:
    """The layout of a product that a choice asks for; None if it cannot be launched so."""
    return layout_of(choice, tiles_of(product), *arguments_of(product)[0], device, **arguments_of(product)[1])


def arguments_of(product: TiledProduct) -> tuple[tuple[int, int, int], dict[str, Any]]:
    """The extents of a product, and the options of `lay_out` for it."""
    p = product
    options = {"left": p.left, "right": p.right, "copies": p.copies, **limits_of(p.kernel)}
    return (p.rows, p.cols, p.depth), options


def write_tiles(path: PathLike, device: str, description: Description, entries: Iterable[Entry]) -> None:
    """Write a table with one product in each line, sorted, so that the changes of a file are readable.

    Args:
        device: the device's name, as the driver reports it.
        description: the device's numbers.
    """
    head = {"format": FORMAT, **_identity(device, description), "made": _now(), "gpunet": __version__}
    lines = ",\n".join(f"  {json.dumps(_as_json(entry))}" for entry in sorted(entries))
    opened = "".join(f" {json.dumps(key)}: {json.dumps(value)},\n" for key, value in head.items())
    write_whole(path, f'{{\n{opened} "products": [{f"{chr(10)}{lines}{chr(10)} " if lines else ""}]\n}}\n'.encode())


def read_tiles(path: PathLike, device: str, description: Description) -> TileTable:
    """Read a table that was measured on this device.

    Args:
        device, description: as for `write_tiles`.
    Raises:
        ValueError: a file that cannot be read, or is no table; a table of another device; or an
            entry whose tile or number of splits the kernels of this version do not have.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{VARIABLE}: {path} cannot be read: {error.strerror or error}") from error
    try:
        held = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{VARIABLE}: {path} is no JSON: {error}") from error
    form = held.get("format") if isinstance(held, dict) else type(held).__name__
    if form != FORMAT or not isinstance(held.get("products"), list):
        raise ValueError(f'{VARIABLE}: {path} has the format {form!r} but takes {FORMAT!r} with a list "products"')
    for key, expected in _identity(device, description).items():
        if held.get(key) != expected:
            raise ValueError(f"{VARIABLE}: {path} has {key} {held.get(key)!r} but this device has {expected!r}")
    choices: dict[TiledProduct, TileChoice] = {}
    for number, entry in enumerate(held["products"]):
        where = f"{VARIABLE}: {path}: products[{number}]"
        product, choice = _read_entry(where, entry)
        if product in choices:
            raise ValueError(f"{where} has the product of an entry before it but takes one entry for each")
        _check_choice(where, product, choice, description)
        choices[product] = choice
    return TileTable(Path(path).name, sha256(content).hexdigest()[:12], choices)


def table_of_environment(device: str, description: Description, *, only_own: bool = False) -> TileTable | None:
    """The table that `GPUNET_TILES` names; None if it is not set, or is empty.

    Args:
        device, description: as for `write_tiles`.
        only_own: whether a table of another device is ignored instead of refused: by the emulated
            device, which stands beside a GPU in one program.
    Raises:
        ValueError: as `read_tiles`.
    """
    path = os.environ.get(VARIABLE)
    if not path or (only_own and _device_of(path) not in (None, device)):
        return None
    return read_tiles(path, device, description)


def _device_of(path: str) -> str | None:
    """The device of a table; None if it does not say."""
    try:
        held = json.loads(Path(path).read_bytes())
    except (OSError, ValueError):
        return None
    return held.get("device") if isinstance(held, dict) else None


def _identity(device: str, description: Description) -> dict[str, Any]:
    return {
        "device": device, "architecture": description.architecture, "multiprocessors": description.multiprocessors
    }  # fmt: skip


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _as_json(entry: Entry) -> dict[str, Any]:
    product, choice = entry.product._asdict(), entry.choice
    loads = [product.pop(side) for side in ("left", "right")]
    return {
        **product, "aligned": loads, "tile": [choice.rows, choice.cols], "loads": [choice.left, choice.right],
        "splits": choice.splits, "microseconds": round(entry.microseconds, 2),
        "chosen_microseconds": round(entry.chosen_microseconds, 2),
    }  # fmt: skip


def _read_entry(where: str, entry: object) -> tuple[TiledProduct, TileChoice]:
    """The product and the choice of an entry, all of whose fields are of their kinds."""
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where} is {entry!r} but takes an object")

    def field(name: str, count: int, kind: type, least: int = 1) -> list[Any]:
        got = entry.get(name)
        values = got if count > 1 and isinstance(got, list) else [got]
        if len(values) != count or not all(type(v) is kind and not (type(v) is int and v < least) for v in values):
            one = {int: f"whole number of at least {least}", bool: "true or false", str: "text"}[kind]
            raise ValueError(f"{where}: {name} is {got!r} but takes {f'{count} of ' if count > 1 else ''}{one}")
        if name in KNOWN and got not in KNOWN[name]:
            raise ValueError(f"{where}: {name} is {got!r} but takes one of {', '.join(map(str, KNOWN[name]))}")
        return values

    left, right = field("aligned", 2, bool)
    values = {
        **{name: field(name, 1, str)[0] for name in ("kernel", "element", "gate")},
        **{name: field(name, 1, int)[0] for name in ("rows", "cols", "copies")},
        **{name: field(name, 1, int, 0)[0] for name in ("terms", "depth")},
        "general": field("general", 1, bool)[0],
    }
    choice = TileChoice(*field("tile", 2, int), *field("loads", 2, int), *field("splits", 1, int))
    return TiledProduct(**values, left=left, right=right), choice


def _check_choice(where: str, product: TiledProduct, choice: TileChoice, device: Description) -> None:
    """Raise ValueError unless the kernels of this version can compute the product so."""
    asked = f"tile {list(choice[:2])} with loads {list(choice[2:4])}"
    found = [f"{[t.rows, t.cols]} with {[t.left, t.right]}" for t in tiles_of(product)]
    if f"{list(choice[:2])} with {list(choice[2:4])}" not in found:
        of = f"{product.kernel} of {product.element} with {product.terms} terms and gate {product.gate}"
        raise ValueError(f"{where} has {asked} but {of} has {', '.join(found) or 'none'}")
    if layout_in(product, choice, device) is None:
        shape = f"{product.rows}x{product.cols}x{product.depth}, aligned {[product.left, product.right]}"
        raise ValueError(f"{where} has {asked} in {choice.splits} splits but a product of {shape} cannot be cut so")
