"""Pictures of what `filters` and `inspect` return, as `matplotlib.figure.Figure`s.

``plot.images(…).savefig("a.png")`` writes one to a file, and a notebook shows one that is the last
expression of a cell. Float images are drawn from their smallest value (black) to their largest
(white), uint8 images as they are. matplotlib is imported when something is drawn;
``pip install "gpunet[examples]"`` installs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from io import BytesIO
from math import ceil, sqrt
from typing import Any

import numpy as np

from gpunet.vision.inspect import Patches, ReceptiveField, half_way

SIGNED, STRENGTH = "RdBu_r", "inferno"
"""Colour maps: for values around 0 (white), and for values from 0 (black)."""


def images(
    images: Sequence[np.ndarray], titles: Sequence[str] = (), *, columns: int | None = None, title: str = "",
    size: float = 1.6,
) -> Any:  # fmt: skip
    """Draw images side by side.

    Args:
        images: each (H, W), or (H, W, C) with 1 or 3 channels.
        titles: one for each image, or none.
        columns: images per row; about as many as rows if None.
        title: of the whole picture.
        size: width of one image, in inches.
    """
    if not len(images):
        raise ValueError("images: takes at least one image, got none")
    if titles and len(titles) != len(images):
        raise ValueError(f"images: takes a title for each of {len(images)} images, got {len(titles)}")
    columns = columns or ceil(sqrt(len(images)))
    shape = np.shape(images[0])
    height = size * shape[0] / shape[1] + 0.3 * bool(titles)
    figure, axes = _figure(ceil(len(images) / columns), columns, size, height, title)
    for i, image in enumerate(images):
        _image(axes.flat[i], image, titles[i] if titles else "")
    return figure


def filters(weight: np.ndarray, *, columns: int | None = None, title: str = "First-layer filters") -> Any:
    """Draw filters (KH, KW, C, O) as O tiles.

    Tiles are in colour if C is 3; else they show the mean of the channels, red above 0 and blue
    below.
    """
    if np.ndim(weight) != 4:
        raise ValueError(f"filters: weight has shape {np.shape(weight)} but takes (KH, KW, C, O)")
    tiles, bound = np.moveaxis(np.asarray(weight), -1, 0), float(np.abs(weight).max())
    columns = columns or ceil(sqrt(len(tiles)))
    figure, axes = _figure(ceil(len(tiles) / columns), columns, 0.9, 1.1, title)
    for i, tile in enumerate(tiles):
        if tile.shape[2] == 3:
            _image(axes.flat[i], 0.5 + tile / (2 * bound or 1), str(i), vmin=0, vmax=1)
            continue
        shown = _image(axes.flat[i], tile.mean(axis=-1), str(i), cmap=SIGNED, vmin=-bound, vmax=bound)
    if weight.shape[2] != 3:
        figure.colorbar(shown, ax=axes, shrink=0.8, label="weight")
    return figure


def feature_maps(image: np.ndarray, maps: Mapping[str, np.ndarray], *, max_channels: int = 12) -> Any:
    """Draw one image's feature maps, one row for each layer.

    Layers without pixels are drawn as bars.

    Args:
        image: (H, W, C).
        maps: each layer's output for this image, (OH, OW, O) or (O,), as `inspect.feature_maps`
            gives them for a batch.
        max_channels: most channels of a layer that are drawn.
    """
    columns = min(max_channels, max(m.shape[-1] for m in maps.values() if m.ndim == 3)) if _with_pixels(maps) else 1
    figure, axes = _figure(len(maps) + 1, columns, 0.85, 0.95, "Feature maps")
    _image(axes[0, 0], image, "image")
    for row, (name, values) in zip(axes[1:], maps.items(), strict=True):
        if values.ndim == 1:
            _bars(figure, row, name, values)
            continue
        bound = float(np.abs(values).max())
        low, colours = (-bound, SIGNED) if values.min() < 0 else (0.0, STRENGTH)
        for i in range(min(columns, values.shape[2])):
            _image(row[i], values[..., i], str(i), cmap=colours, vmin=low, vmax=bound)
        _label(row[0], f"{name}\n{'x'.join(map(str, values.shape))}")
    return figure


def patches(units: Mapping[str, Patches], projections: Mapping[str, np.ndarray] | None = None) -> Any:
    """Draw the patches that activate units most, one row for each unit.

    Args:
        units: patches by the units' names.
        projections: deconvnet projections by the same names, (K, RH, RW, C), with the extents of
            the patches. They are drawn below the patches, with 0 in grey.
    """
    rows_each = 1 if projections is None else 2
    columns = max(len(p.values) for p in units.values())
    title = "Patches that activate a unit most" + ("" if projections is None else ", and their deconvnet projections")
    figure, axes = _figure(rows_each * len(units), columns, 1.0, 1.15, title)
    for i, (name, found) in enumerate(units.items()):
        for k, patch in enumerate(found.patches):
            _image(axes[rows_each * i, k], patch, f"{found.values[k]:.2f}")
            if projections is not None:
                projection = projections[name][k]
                bound = float(np.abs(projection).max()) or 1.0
                _image(axes[rows_each * i + 1, k], 0.5 + projection / (2 * bound), vmin=0, vmax=1)
        _label(axes[rows_each * i, 0], name)
    return figure


def heatmaps(
    images: Sequence[np.ndarray], maps: Mapping[str, np.ndarray], titles: Sequence[str] = (), *, title: str = ""
) -> Any:
    """Draw images, and below each its maps, scaled to the image and laid over it.

    Args:
        images: N images, (H, W, C).
        maps: by name, each (N, h, w) at any resolution, as `inspect.saliency` and `grad_cam` give
            them. The image shows through where a map is small; the title of each is its largest
            value.
        titles: one for each image, or none.
    """
    figure, axes = _figure(len(maps) + 1, len(images), 1.3, 1.4, title)
    for n, image in enumerate(images):
        _image(axes[0, n], image, titles[n] if titles else "")
        h, w = image.shape[:2]
        for row, (name, values) in zip(axes[1:], maps.items(), strict=True):
            row[n].set_facecolor("black")
            _image(row[n], image, f"{values[n].max():.2g}", alpha=0.5)
            strength = np.clip(values[n] / (values[n].max() or 1), 0, 1)
            box = (-0.5, w - 0.5, h - 0.5, -0.5)
            row[n].imshow(strength, cmap=STRENGTH, alpha=0.9 * strength, extent=box, interpolation="bilinear")
            if n == 0:
                _label(row[n], name)
    return figure


def receptive_fields(
    image: np.ndarray, fields: Mapping[str, ReceptiveField], unit_at: tuple[int, int] | None = None
) -> Any:
    """Draw the receptive field of one unit of each layer over an image (H, W, C).

    Args:
        fields: by the layers' names; fields that cover the whole image are left out.
        unit_at: (row, column) of the pixel under the unit; the image's middle if None.
    """
    from matplotlib.patches import Rectangle

    figure, axes = _figure(1, 1, 6.5, 4.2, "Receptive fields")
    ax = axes[0, 0]
    _image(ax, image)
    ax.set_axis_off()
    at = unit_at or (image.shape[0] // 2, image.shape[1] // 2)
    by_field: dict[ReceptiveField, list[str]] = {}
    for name, field in fields.items():
        if field.stride != (0, 0):
            by_field.setdefault(field, []).append(name)
    edges = [(-0.5, image.shape[0] - 0.5), (-0.5, image.shape[1] - 0.5)]
    for i, (field, names) in enumerate(by_field.items()):
        (top, bottom), (left, right) = field.box(*_unit_over(at, field))
        label = f"{', '.join(names)}: {field.size[0]}x{field.size[1]}, stride {field.stride[0]}"
        ax.add_patch(
            Rectangle(
                (left - 0.5, top - 0.5),
                right - left,
                bottom - top,
                fill=False,
                linewidth=2,
                edgecolor=f"C{i}",
                label=label,
            )
        )
        edges = [
            (min(a, lo - 0.5), max(b, hi - 0.5))
            for (a, b), lo, hi in zip(edges, (top, left), (bottom, right), strict=True)
        ]
    ax.set(xlim=(edges[1][0] - 0.2, edges[1][1] + 0.2), ylim=(edges[0][1] + 0.2, edges[0][0] - 0.2))
    ax.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), fontsize=8, title="layer: pixels seen", title_fontsize=8)
    return figure


def translation(shifts: Sequence[int], curves: Mapping[str, Sequence[float]], what: str = "features") -> Any:
    """Draw `inspect.translation`'s distances against the shift, with one curve for each network.

    The legend says at which shift each curve is half way.
    """
    figure, axes = _figure(1, 1, 6.0, 4.0, f"How far an input moves before the {what} change")
    ax = axes[0, 0]
    ax.set_axis_on()
    for name, distances in curves.items():
        where = half_way(shifts, distances)
        reached = f"half way at {where:.1f} pixels" if where < float("inf") else "never half way"
        ax.plot(shifts, distances, marker="o", markersize=3, label=f"{name}: {reached}")
    ax.axhline(1, color="grey", linewidth=0.8, linestyle=":")
    ax.set_xlabel("shift of the input (pixels)")
    ax.set_ylabel(f"distance of the {what} (1: another image)")
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=8)
    return figure


# ---- parts


def _figure(rows: int, columns: int, width: float, height: float, title: str) -> tuple[Any, Any]:
    """(figure, axes (rows, columns)), each of width x height inches.

    An axes has no frame until something is drawn.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('plot: drawing needs matplotlib: pip install "gpunet[examples]"') from error
    figure: Any = Figure(figsize=(max(columns * width, 3.0), rows * height + 0.4), dpi=130, layout="compressed")
    figure._repr_png_ = partial(_png, figure)  # else a notebook shows figures only after pyplot has made one
    if title:
        figure.suptitle(title, fontsize=11)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    return figure, axes


def _png(figure: Any) -> bytes:
    """The picture as a notebook shows it."""
    file = BytesIO()
    figure.savefig(file, format="png", dpi=100, bbox_inches="tight")
    return file.getvalue()


def _image(ax: Any, image: np.ndarray, title: str = "", **options: Any) -> Any:
    """Draw (H, W), (H, W, 1) or (H, W, 3) without interpolation."""
    if np.ndim(image) not in (2, 3) or (np.ndim(image) == 3 and np.shape(image)[2] not in (1, 3)):
        raise ValueError(f"plot: an image has shape {np.shape(image)} but takes (H, W), (H, W, 1) or (H, W, 3)")
    if np.ndim(image) == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.dtype.kind == "f" and image.ndim == 3:  # matplotlib accepts colours from 0 to 1 only
        low, high = options.get("vmin", image.min()), options.get("vmax", image.max())
        image = np.clip((image - low) / ((high - low) or 1), 0, 1)
    elif image.dtype == np.uint8:
        options = {"vmin": 0, "vmax": 255, **options}
    ax.set_axis_on()
    ax.set(xticks=[], yticks=[])
    if title:
        ax.set_title(title, fontsize=8)
    return ax.imshow(image, **{"cmap": "gray", "interpolation": "nearest", **options})


def _label(ax: Any, text: str) -> None:
    """Write a row's name to its left."""
    ax.set_ylabel(text, fontsize=8, rotation=0, ha="right", va="center")


def _bars(figure: Any, row: Any, name: str, values: np.ndarray) -> None:
    """Draw the values of a layer without pixels across the whole row."""
    ax = figure.add_subplot(row[0].get_gridspec()[row[0].get_subplotspec().rowspan.start, :])
    ax.bar(range(len(values)), values, width=1.0)
    ax.set_title(f"{name}: {len(values)}", fontsize=8, loc="left")
    ax.tick_params(labelsize=6)
    ax.margins(x=0.01)


def _unit_over(at: tuple[int, int], field: ReceptiveField) -> tuple[int, int]:
    """The unit whose field is centred nearest to a pixel."""
    row, column = (
        round((pixel - offset - (size - 1) / 2) / stride)
        for pixel, offset, size, stride in zip(at, field.offset, field.size, field.stride, strict=True)
    )
    return row, column


def _with_pixels(maps: Mapping[str, np.ndarray]) -> bool:
    return any(m.ndim == 3 for m in maps.values())
