"""Samples as pictures: mosaics of images, scatter plots of vectors."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from edm_unified.report.data import image_like
from edm_unified.report.draw import Palette, dress

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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


def frame(samples: Any) -> tuple[float, float, float, float]:
    """Limits (left, right, bottom, top) that hold vectors but for far outliers, the same for all scatter plots."""
    points = _points(samples)
    low, high = np.percentile(points, [0.5, 99.5], axis=0)
    room = 0.2 * (high - low).max() + 1e-9
    return low[0] - room, high[0] + room, low[1] - room, high[1] + room


def _points(samples: Any) -> np.ndarray:
    """The first two coordinates of vectors; one coordinate alone is shown against its rank."""
    array = np.asarray(samples, dtype=np.float64).reshape(len(samples), -1)
    array = array[np.isfinite(array).all(axis=1)]
    if array.shape[1] == 1:
        order = array[:, 0].argsort().argsort() / max(len(array) - 1, 1)
        return np.stack([array[:, 0], order], axis=1)
    return array[:, :2]


def scatter(ax: Axes, palette: Palette, samples: Any, limits: tuple[float, float, float, float], index: int) -> None:
    """Vectors as points in their first two coordinates. ``index`` -1 draws them in the text colour."""
    dress(ax, palette)
    points = _points(samples)[:2000]
    colour = palette.fg if index < 0 else palette.line(index)
    size = 3.2 if len(points) < 300 else 2.0
    ax.plot(*points.T, "o", color=colour, alpha=0.55, markersize=size, markeredgewidth=0, rasterized=len(points) > 1500)
    ax.set_xlim(limits[0], limits[1])
    ax.set_ylim(limits[2], limits[3])
    ax.locator_params(nbins=4)
