"""COCO segmentations as boolean masks, equal pixel for pixel to the COCO API's.

An annotation's `segmentation` is a list of polygons `[x0, y0, x1, y1, ...]` in pixels, an uncompressed run-length code
`{"size": [h, w], "counts": [...]}`, or a compressed one whose counts are a string. Runs alternate between outside and
inside and go down the columns. Pillow's polygons differ along the border from those of the published query images;
hence the API's own rule: trace each on a grid five times finer and toggle, in every column, the pixels below each
crossing.
"""

import numpy as np

_FINER = 5
_FARTHEST = 100_000


def segmentation_mask(segmentation: list | dict, height: int, width: int) -> np.ndarray:
    """The mask, bool [height, width], of one annotation. Raises ValueError for a malformed segmentation."""
    if isinstance(segmentation, list):
        mask = np.zeros((height, width), dtype=bool)
        for polygon in segmentation:
            mask |= polygon_mask(polygon, height, width)
        return mask
    if list(segmentation["size"]) != [height, width]:
        raise ValueError(f"run-length code of size {segmentation['size']} in an image of {[height, width]}")
    counts = segmentation["counts"]
    return runs_mask(decode_counts(counts) if isinstance(counts, str | bytes) else counts, height, width)


def runs_mask(counts: list[int], height: int, width: int) -> np.ndarray:
    """The mask of an uncompressed run-length code: runs outside, inside, outside, ... down the columns."""
    if min(counts, default=0) < 0 or sum(counts) != height * width:
        raise ValueError(f"run-length code of {sum(counts)} pixels in an image of {height * width}")
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(width, height).T


def decode_counts(text: str | bytes) -> list[int]:
    """The run lengths of COCO's compressed code: 5 bits a character, from the third run on as differences."""
    codes = (text.encode("ascii") if isinstance(text, str) else text).strip()
    counts: list[int] = []
    value = shift = 0
    for code in codes:
        bits = code - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        if len(counts) > 2:
            value += counts[-2]
        counts.append(value)
        value = shift = 0
    return counts


def polygon_mask(polygon: list[float], height: int, width: int) -> np.ndarray:
    """The mask of one polygon `[x0, y0, x1, y1, ...]`, closed by itself."""
    if len(polygon) % 2 or len(polygon) < 6:
        raise ValueError(f"a polygon of {len(polygon)} numbers; at least three points of two are needed")
    across, down = _trace(np.asarray(polygon, dtype=np.float64).reshape(-1, 2))
    step = np.flatnonzero(np.diff(across)) + 1
    left = np.where(across[step] < across[step - 1], across[step], across[step] - 1)
    top = np.minimum(down[step], down[step - 1])
    column = (left + 0.5) / _FINER - 0.5
    crosses = (np.floor(column) == column) & (column >= 0) & (column <= width - 1)
    row = np.ceil(np.clip((top[crosses] + 0.5) / _FINER - 0.5, 0, height))
    toggles = (column[crosses] * height + row).astype(np.int64)
    parity = np.cumsum(np.bincount(toggles, minlength=height * width + 1)[:-1]) % 2
    return parity.astype(bool).reshape(width, height).T


def _trace(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All grid points along the border, in order, on the finer grid: x and y, int64."""
    if not np.abs(points).max() <= _FARTHEST:
        raise ValueError("a polygon far outside of any image")
    corners = (points * _FINER + 0.5).astype(np.int64)
    corners = np.concatenate([corners, corners[:1]])
    across, down = [], []
    for (x0, y0), (x1, y1) in zip(corners[:-1].tolist(), corners[1:].tolist()):
        length = max(abs(x1 - x0), abs(y1 - y0))
        flat = abs(x1 - x0) >= abs(y1 - y0)
        # interpolated from the smaller end, as rounding is not symmetric
        backwards = x0 > x1 if flat else y0 > y1
        if backwards:
            x0, y0, x1, y1 = x1, y1, x0, y0
        along = np.arange(length + 1)
        slope = ((y1 - y0) if flat else (x1 - x0)) / max(length, 1)
        xs = x0 + along if flat else (x0 + slope * along + 0.5).astype(np.int64)
        ys = (y0 + slope * along + 0.5).astype(np.int64) if flat else y0 + along
        across.append(xs[::-1] if backwards else xs)
        down.append(ys[::-1] if backwards else ys)
    return np.concatenate(across), np.concatenate(down)
