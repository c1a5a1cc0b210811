"""Masks as the polygons that COCO's annotations hold."""

import numpy as np

Point = tuple[int, int]


def outlines(mask: np.ndarray) -> list[list[int]]:
    """Outer borders of a mask's connected regions, each `[x0, y0, x1, y1, ...]` along pixel edges.

    mask: bool [H, W]. Holes are not cut out: COCO's polygons cannot say them.
    """
    following = _border_steps(mask)
    polygons = []
    while following:
        polygon = _corners(_follow(following))
        if _signed_area(polygon) > 0:
            polygons.append([number for point in polygon for number in point])
    return polygons


def _border_steps(mask: np.ndarray) -> dict[Point, list[Point]]:
    """From each border point the next ones, with the region on the right hand (y points down)."""
    framed = np.pad(mask, 1)
    inside = framed[1:-1, 1:-1]
    sides = (
        (framed[:-2, 1:-1], (0, 0), (1, 0)),  # nothing above: along the top edge
        (framed[1:-1, 2:], (1, 0), (1, 1)),
        (framed[2:, 1:-1], (1, 1), (0, 1)),
        (framed[1:-1, :-2], (0, 1), (0, 0)),
    )
    following: dict[Point, list[Point]] = {}
    for neighbour, (x0, y0), (x1, y1) in sides:
        for y, x in np.argwhere(inside & ~neighbour).tolist():
            following.setdefault((x + x0, y + y0), []).append((x + x1, y + y1))
    return following


def _follow(following: dict[Point, list[Point]]) -> list[Point]:
    """Takes one closed border out of the steps; where two regions touch at a corner it stays with its own."""
    start = next(iter(following))
    path, direction = [start], (0, 0)
    while True:
        point = path[-1]
        right = (-direction[1], direction[0])
        choices = following[point]
        choice = next((c for c in choices if (c[0] - point[0], c[1] - point[1]) == right), choices[0])
        choices.remove(choice)
        if not choices:
            del following[point]
        if choice == start:
            return path
        direction = (choice[0] - point[0], choice[1] - point[1])
        path.append(choice)


def _corners(path: list[Point]) -> list[Point]:
    """The points at which a closed path turns."""
    neighbours = zip(path[-1:] + path[:-1], path, path[1:] + path[:1])
    return [p for before, p, after in neighbours if (before[0] == p[0]) != (p[0] == after[0])]


def _signed_area(polygon: list[Point]) -> float:
    """Positive for outer borders, negative for holes."""
    following = polygon[1:] + polygon[:1]
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(polygon, following)) / 2
