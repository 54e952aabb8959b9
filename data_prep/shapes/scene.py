"""Scenes of the `shapes` corpus: which objects an image shows, where, and how they relate to one another.

Lengths are in units of 1/64 of the edge of the image, so at 64 px a unit is a pixel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from typing import TypeVar

import numpy as np

from bridgetower_train.random import uniform

GRID = 64
"""Units along the edge of an image."""
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
PLACES = {
    "upper left": (16, 16),
    "upper right": (48, 16),
    "lower left": (16, 48),
    "lower right": (48, 48),
    "middle": (32, 32),
}
"""Place of a single object -> its centre, units."""

_CELL = GRID // 2
_MARGIN = 2
_JITTER = 4
_DRAWS = 128

T = TypeVar("T")
Triple = tuple[str, str, str]
Layout = tuple[list[tuple[int, int]], tuple[str, ...], str]
"""Upper left corners, relations and place."""


@dataclass(frozen=True)
class Palette:
    """What the objects of a corpus may look like."""

    colours: tuple[str, ...]
    shapes: tuple[str, ...]
    textures: tuple[str, ...]
    sizes: Mapping[str, tuple[int, int]]
    """Size word -> smallest and largest edge of an object, units."""
    spread: int
    """How far an object of a pair may lie from the middle of its half, units."""

    def held_out(self, colour: str, shape: str, texture: str) -> bool:
        """Whether training never shows this combination.

        A Latin square: of the 48 held-out triples of ALL's 192 each colour has 6, each shape 6, each texture 16, and training
        sees each pair of attributes with at least one value of the third.
        """
        place = self.colours.index(colour) + self.shapes.index(shape) + 3 * self.textures.index(texture)
        return place % len(self.colours) < len(self.colours) // 4

    @cached_property
    def triples(self) -> dict[bool, list[Triple]]:
        """Combinations of colour, shape and texture: False -> training, True -> held out."""
        every = list(product(self.colours, self.shapes, self.textures))
        return {held: [triple for triple in every if self.held_out(*triple) == held] for held in (False, True)}


ALL = Palette(
    colours=("red", "orange", "yellow", "green", "blue", "purple", "pink", "black"),
    shapes=("circle", "square", "triangle", "star", "heart", "cross", "ring", "moon"),
    textures=("plain", "striped", "dotted"),
    sizes={"small": (14, 16), "large": (24, 26)},
    spread=GRID // 2,
)
FEW = Palette(
    colours=("red", "yellow", "blue", "black"),
    shapes=("circle", "square", "triangle", "cross"),
    textures=("plain",),
    sizes={"small": (15, 16), "large": (27, 28)},
    spread=4,
)
"""So few that a tiny model learns the tasks about them."""


class Dice:
    """The random numbers of one record, in sequence: a pure function of (seed, split, record)."""

    def __init__(self, seed: int, split: str, record: int) -> None:
        self._numbers = iter(uniform(seed, split, record, np.arange(_DRAWS)).tolist())

    def between(self, low: int, high: int) -> int:
        """An integer, both ends included."""
        return low + int(next(self._numbers) * (high - low + 1))

    def choose(self, options: Sequence[T]) -> T:
        """One of `options`, all equally likely."""
        return options[self.between(0, len(options) - 1)]


@dataclass(frozen=True)
class Item:
    """One object of an image."""

    colour: str
    shape: str
    texture: str
    size: str
    edge: int
    """Edge of the bounding square, units."""
    x: int
    """Left edge, units."""
    y: int
    """Upper edge, units."""

    def box(self, size: int) -> tuple[int, int, int, int]:
        """Left, upper, right and lower edge in pixels of an image of `size` pixels."""
        left, top, edge = (round(length * size / GRID) for length in (self.x, self.y, self.edge))
        return left, top, left + edge, top + edge


@dataclass(frozen=True)
class Scene:
    """What an image shows."""

    items: tuple[Item, ...]
    """One to three objects; of three, the first is beside the second and above or below the third."""
    relations: tuple[str, ...] = ()
    """Relation of the first object to each of the others."""
    place: str = ""
    """Place of a single object."""
    palette: Palette = ALL
    """What its objects might have looked like."""


def make_scene(dice: Dice, held: bool, palette: Palette = ALL) -> Scene:
    """Draw a scene of training or of held-out combinations: 15% show one object, 65% two, 20% three."""
    number = dice.choose((1,) * 3 + (2,) * 13 + (3,) * 4)
    triples: list[Triple] = []
    for _ in range(number):
        taken = {triple[:2] for triple in triples}
        triples.append(dice.choose([triple for triple in palette.triples[held] if triple[:2] not in taken]))
    sizes = [dice.choose(tuple(palette.sizes)) for _ in triples]
    edges = [dice.between(*palette.sizes[size]) for size in sizes]
    layout = (_single, partial(_pair, spread=palette.spread), _corner)[number - 1]
    corners, relations, place = layout(dice, edges)
    parts = zip(triples, sizes, edges, corners, strict=True)
    items = tuple(Item(*triple, size, edge, *corner) for triple, size, edge, corner in parts)
    return Scene(items, relations, place, palette)


def _spot(dice: Dice, edge: int, centre: int, jitter: int, low: int, high: int) -> int:
    """Upper left end of an object within `jitter` of `centre` on one axis, inside `low` to `high` less a margin."""
    start = centre - edge // 2
    return dice.between(max(start - jitter, low + _MARGIN), min(start + jitter, high - _MARGIN - edge))


def _single(dice: Dice, edges: list[int]) -> Layout:
    place = dice.choose(tuple(PLACES))
    x, y = (_spot(dice, edges[0], centre, _JITTER, 0, GRID) for centre in PLACES[place])
    return [(x, y)], (), place


def _pair(dice: Dice, edges: list[int], spread: int) -> Layout:
    relation = dice.choose(tuple(INVERSE))
    across = dice.between(_CELL // 2, GRID - _CELL // 2)
    corners = []
    for edge, half in zip(edges, (0, 1) if relation in ("left of", "above") else (1, 0), strict=True):
        along = _spot(dice, edge, half * _CELL + _CELL // 2, spread, half * _CELL, (half + 1) * _CELL)
        aside = _spot(dice, edge, across, _JITTER, 0, GRID)
        corners.append((along, aside) if relation in ("left of", "right of") else (aside, along))
    return corners, (relation,), ""


def _corner(dice: Dice, edges: list[int]) -> Layout:
    relations = (dice.choose(("left of", "right of")), dice.choose(("above", "below")))
    x, y = (int(relation in ("right of", "below")) for relation in relations)
    corners = []
    for edge, cell in zip(edges, ((x, y), (1 - x, y), (x, 1 - y)), strict=True):
        left, top = (_spot(dice, edge, c * _CELL + _CELL // 2, _JITTER, c * _CELL, (c + 1) * _CELL) for c in cell)
        corners.append((left, top))
    return corners, relations, ""
