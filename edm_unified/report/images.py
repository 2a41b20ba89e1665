"""Samples as pictures: mosaics of images, curves of signals, clouds of vectors."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edm_unified.report.data import image_like, signal_like
from edm_unified.report.draw import INK, Palette, dress, margins, png
from edm_unified.report.templates import Picture, data_uri

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

MOST_POINTS = 10_000
"""Vectors drawn in one cloud."""
_MOST_IMAGES = 64
_MOST_SIDE = 128
_MOST_BYTES = 1_600_000  # of all pixels in all mosaics, so that a report stays a few megabytes


def to_uint8(samples: Any) -> np.ndarray:
    """(n, C, H, W) in [-1, 1] -> (n, H, W, C) in 0…255. Values outside are clipped; NaN becomes black."""
    array = np.asarray(samples, dtype=np.float64)
    if not image_like(array):
        raise ValueError(f"samples: must be (n, C, H, W) with C 1 or 3, got the shape {array.shape}")
    scaled = np.clip(np.nan_to_num(array, nan=-1.0) * 127.5 + 127.5, 0, 255).round()
    return scaled.astype(np.uint8).transpose(0, 2, 3, 1)


def mosaic(samples: Any, columns: int, gap: int = 1) -> np.ndarray:
    """Tile images row by row into one RGBA array (uint8), with transparent gaps of ``gap`` pixels."""
    tiles = to_uint8(samples)
    n, height, width, _ = tiles.shape
    columns = max(1, min(columns, n))
    rows = math.ceil(n / columns)
    canvas = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, 4), dtype=np.uint8)
    for i in range(n):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        canvas[top : top + height, left : left + width, :3] = tiles[i]
        canvas[top : top + height, left : left + width, 3] = 255
    return canvas


def encode(rgba: np.ndarray, scale: int = 1) -> bytes:
    """An RGBA array as a PNG file, each pixel repeated ``scale`` times; grey is stored as grey."""
    from PIL import Image

    pixels = rgba.repeat(scale, axis=0).repeat(scale, axis=1)
    grey = bool((pixels[..., :1] == pixels[..., 1:3]).all())
    image = Image.fromarray(np.ascontiguousarray(pixels[..., (0, 3)] if grey else pixels), "LA" if grey else "RGBA")
    file = io.BytesIO()
    image.save(file, format="png", optimize=True)
    return file.getvalue()


def bitmap(samples: Any, grids: int) -> Picture:
    """Images as a mosaic for a page with so many of them; each pixel is shown as a square."""
    small = thumbnails(samples, grids)
    tiled = mosaic(small, columns_for(len(small), *small.shape[2:]))
    height, width = tiled.shape[:2]
    zoom = max(1, round(216 / width))  # whole multiples keep pixels square
    return Picture(data_uri(encode(tiled), "image/png"), width * zoom, height * zoom)


def samples_grid_png(samples: Any, columns: int = 8, scale: int | None = None) -> bytes:
    """Images (n, C, H, W) in [-1, 1] as one PNG file, ``columns`` to a row, row by row.

    Args:
        samples: array or CPU tensor; C is 1 or 3, H and W may differ.
        columns: images in a row.
        scale: times each pixel is repeated; None enlarges images smaller than 48 pixels to about that size.
    """
    smallest = min(np.shape(samples)[2:]) if image_like(samples) else 1
    return encode(mosaic(samples, columns), scale or max(1, round(48 / max(smallest, 1))))


def thumbnails(samples: Any, grids: int = 1) -> np.ndarray:
    """As many of the images as a report of so many grids has room for, (n, C, H, W) in [-1, 1].

    At most 64, or fewer but a square number of at least 4; at most 128 pixels high or wide.
    """
    array = np.asarray(samples, dtype=np.float64)
    height, width = array.shape[2:]
    shrink = min(1.0, _MOST_SIDE / max(height, width))
    size = max(1, round(height * shrink)), max(1, round(width * shrink))
    room = _MOST_BYTES // (grids * array.shape[1] * size[0] * size[1])
    array = array[: _MOST_IMAGES if room >= _MOST_IMAGES else max(2, math.isqrt(room)) ** 2]
    if shrink == 1.0:
        return array
    from PIL import Image

    tiles = to_uint8(array)
    grey = tiles.shape[-1] == 1
    small = [
        np.asarray(Image.fromarray(tile[..., 0] if grey else tile).resize(size[::-1], Image.Resampling.BOX))
        for tile in tiles
    ]
    stacked = np.stack(small).reshape(len(small), *size, tiles.shape[-1])
    return stacked.transpose(0, 3, 1, 2) / 127.5 - 1


def columns_for(n: int, height: int, width: int) -> int:
    """Images to a row so that the mosaic is about square."""
    return max(1, min(n, round(math.sqrt(n * height / width))))


def pictured(shape: Sequence[int]) -> bool:
    """Whether samples of that shape have a picture: images of 1 or 3 channels, signals (C, L), vectors (d,)."""
    return len(shape) in (1, 2) or (len(shape) == 3 and shape[0] in (1, 3))


def frame(samples: Any) -> tuple[float, float, float, float]:
    """Limits (left, right, bottom, top) that hold vectors or signals but for far outliers, for all pictures alike."""
    array = np.asarray(samples, dtype=np.float64)
    if signal_like(array):
        low, high = np.percentile(array[np.isfinite(array)], [0.1, 99.9])
        room = 0.12 * (high - low) + 1e-9
        return 0.0, float(array.shape[2] - 1), low - room, high + room
    points = _points(array)
    low, high = np.percentile(points, [0.5, 99.5], axis=0)
    room = 0.2 * (high - low).max() + 1e-9
    return low[0] - room, high[0] + room, low[1] - room, high[1] + room


def shared_frame(shown: Sequence[tuple[str, int, Any]]) -> tuple[float, float, float, float]:
    """Limits of all pictures (label, index, samples) together: those of the data and the exact endpoints, index -1,
    where there are such, so that a method that strays does not make everything else small."""
    drawn = [(index, samples) for _, index, samples in shown if samples is not None and not image_like(samples)]
    frames = [frame(samples) for index, samples in drawn if index < 0] or [frame(samples) for _, samples in drawn[:1]]
    if not frames:
        return 0.0, 1.0, 0.0, 1.0
    left, right, bottom, top = zip(*frames, strict=True)
    return min(left), max(right), min(bottom), max(top)


def _points(samples: Any) -> np.ndarray:
    """The first two coordinates of vectors; one coordinate alone is shown against the share of samples below it."""
    array = np.asarray(samples, dtype=np.float64).reshape(len(samples), -1)
    array = array[np.isfinite(array).all(axis=1)]
    if array.shape[1] == 1:
        order = array[:, 0].argsort().argsort() / max(len(array) - 1, 1)
        return np.stack([array[:, 0], order], axis=1)
    return array[:, :2]


def draw(
    figure: Figure | SubFigure,
    palette: Palette,
    samples: Any,
    limits: tuple[float, float, float, float],
    index: int,
    top: float = 0.1,
) -> Axes:
    """Signals as curves, vectors as points, within a figure that has ``top`` inches of room above; the upper axes.

    ``index`` is the method's, for its colour; -1 draws in the colour of text.
    """
    colour = palette.fg if index < 0 else palette.line(index)
    return (signals if signal_like(samples) else scatter)(figure, palette, samples, limits, colour, top)


def scatter(
    figure: Figure | SubFigure,
    palette: Palette,
    samples: Any,
    limits: tuple[float, float, float, float],
    colour: str | Sequence[str],
    top: float = 0.1,
) -> Axes:
    """Vectors as points in their first two coordinates, :data:`MOST_POINTS` at most, in one colour or one for each."""
    array = np.asarray(samples)
    points = _points(array)[:MOST_POINTS]
    names = ("x", "share below") if array[0].size == 1 else ("x₁", "x₂")
    ax = margins(figure, 0.52, 0.08, 0.42, top)
    dress(ax, palette, "", *names)
    size = 3.2 if len(points) < 300 else 2.0
    kinds = [colour] if isinstance(colour, str) else list(dict.fromkeys(colour))
    for kind in kinds:
        own = points if isinstance(colour, str) else points[[c == kind for c in colour[: len(points)]]]
        ax.plot(*own.T, "o", color=kind, alpha=0.55, markersize=size, markeredgewidth=0, rasterized=len(points) > 1500)
    ax.set_xlim(limits[0], limits[1])
    ax.set_ylim(limits[2], limits[3])
    ax.locator_params(nbins=4)
    return ax


def signals(
    figure: Figure | SubFigure,
    palette: Palette,
    samples: Any,
    limits: tuple[float, float, float, float],
    colour: str | Sequence[str],
    top: float = 0.1,
    most: int = 4,
) -> Axes:
    """The first signals (n, C, L), one above the other on equal axes, all channels of one in one frame."""
    array = np.asarray(samples, dtype=np.float64)[:most]
    whole, rows = margins(figure, 0.42, 0.08, 0.42, top).get_position(), len(array)
    figure.delaxes(figure.axes[-1])
    height = whole.height / rows
    axes = [figure.add_axes((whole.x0, whole.y1 - (i + 1) * height, whole.width, 0.86 * height)) for i in range(rows)]
    for i, (ax, signal) in enumerate(zip(axes, array, strict=True)):
        dress(ax, palette, "", "position" if i == rows - 1 else "")
        kind = colour if isinstance(colour, str) else colour[i]
        for c, channel in enumerate(signal):
            ax.plot(channel, color=kind, linewidth=0.9, alpha=1.0 if c == 0 else 0.45)
        ax.set_xlim(limits[0], limits[1])
        ax.set_ylim(limits[2], limits[3])
        ax.set_yticks(_three_ticks(limits[2], limits[3]))
        ax.locator_params(axis="x", nbins=5)
        ax.tick_params(labelbottom=i == rows - 1, labelsize=8.7)
    return axes[0]


def _three_ticks(low: float, high: float) -> list[float]:
    """Zero and a round number on either side of it, so far from the edges that rows of axes keep them apart."""
    most = 0.75 * max(abs(low), abs(high))
    unit = 10.0 ** math.floor(math.log10(most))
    round_one = max(m * unit for m in (1, 1.5, 2, 3, 4, 5, 6, 8) if m * unit <= most)
    return [tick for tick in (-round_one, 0.0, round_one) if low < tick < high]


def samples_png(samples: Any, labels: Any = None) -> bytes:
    """Samples as one PNG file: up to 256 images as a grid, 8 signals as curves, 10,000 vectors as points.

    ``labels`` (n,), the class of each, gives signals and points their colours. Raises ``ValueError`` for samples of
    which there is no picture, such as latents of four channels.
    """
    array = np.asarray(samples)
    if not pictured(array.shape[1:]):
        raise ValueError(
            f"no picture of samples of shape {array.shape[1:]}; images have 1 or 3 channels, signals are (C, L) and "
            "points (d,)"
        )
    if image_like(array):
        return samples_grid_png(array[:256], columns=max(1, round(min(len(array), 256) ** 0.5)))
    finite = array[np.isfinite(array.reshape(len(array), -1)).all(axis=1)]
    known = np.zeros(len(array), int) if labels is None else np.asarray(labels)
    kinds = [INK.line(int(k)) for k in known[np.isfinite(array.reshape(len(array), -1)).all(axis=1)]]
    if not len(finite):
        raise ValueError("no picture: every sample has NaN or infinity")
    if signal_like(array):
        return png(lambda figure, palette: signals(figure, palette, finite, frame(finite), kinds, most=8), (7, 6), 100)
    return png(lambda figure, palette: scatter(figure, palette, finite, frame(finite), kinds), (5, 5), 110)
