"""Draws the scenes of the `shapes` corpus."""

import math
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from data_prep.shapes.scene import GRID, Dice, Scene

RGB = tuple[int, int, int]
Points = list[tuple[float, float]]

PAINT: dict[str, RGB] = {
    "red": (214, 38, 38),
    "orange": (244, 132, 18),
    "yellow": (246, 218, 44),
    "green": (38, 150, 60),
    "blue": (38, 84, 208),
    "purple": (124, 44, 160),
    "pink": (250, 122, 184),
    "black": (28, 28, 32),
}
_WHITE: RGB = (250, 250, 250)
_MARKS = {"yellow": (92, 70, 10)}
"""Colour of stripes and dots where white would not show."""
_TONE_JITTER = 12
_PERIOD = 5.5
"""Distance between stripes and between dots, units."""
_RIM = 1.0
"""Width of the plain edge around stripes and dots, units."""
_SUPERSAMPLE = 8


def _circle(x: float, y: float, radius: float) -> Points:
    return [(x + radius * math.sin(t), y + radius * math.cos(t)) for t in np.linspace(0, 2 * math.pi, 64).tolist()]


def _star() -> Points:
    spokes = [(0.54, 0.27)[k % 2] for k in range(10)]
    return [(0.5 + r * math.sin(k * math.pi / 5), 0.55 - r * math.cos(k * math.pi / 5)) for k, r in enumerate(spokes)]


def _heart() -> Points:
    lobes = np.linspace(0, 2 * math.pi, 64)
    x = 0.5 + 0.5 * np.sin(lobes) ** 3
    y = 0.44 - (13 * np.cos(lobes) - 5 * np.cos(2 * lobes) - 2 * np.cos(3 * lobes) - np.cos(4 * lobes)) / 30
    return list(zip(x.tolist(), y.tolist(), strict=True))


def _cross() -> Points:
    a, b = 0.3, 0.7
    return [(a, 0), (b, 0), (b, a), (1, a), (1, b), (b, b), (b, 1), (a, 1), (a, b), (0, b), (0, a), (a, a)]


OUTLINES: dict[str, tuple[Points, Points]] = {
    "circle": (_circle(0.5, 0.5, 0.5), []),
    "square": ([(0.04, 0.04), (0.96, 0.04), (0.96, 0.96), (0.04, 0.96)], []),
    "triangle": ([(0.5, 0.02), (1, 0.96), (0, 0.96)], []),
    "star": (_star(), []),
    "heart": (_heart(), []),
    "cross": (_cross(), []),
    "ring": (_circle(0.5, 0.5, 0.5), _circle(0.5, 0.5, 0.2)),
    "moon": (_circle(0.5, 0.5, 0.5), _circle(0.84, 0.34, 0.36)),
}
"""Outline and hole of each shape in the unit square, y downwards."""


def draw(scene: Scene, dice: Dice, size: int) -> Image.Image:
    """Draw `scene` as an RGB image of `size` x `size` pixels, with tones and background from `dice`."""
    image = _background(dice, size)
    for item in scene.items:
        left, top, right, _ = item.box(size)
        body, marks = _masks(item.shape, item.texture, right - left, size / GRID)
        image.paste(_vary(dice, PAINT[item.colour]), (left, top), body)
        image.paste(_MARKS.get(item.colour, _WHITE), (left, top), marks)
    return image


def _vary(dice: Dice, colour: RGB) -> RGB:
    red, green, blue = (min(max(tone + dice.between(-_TONE_JITTER, _TONE_JITTER), 0), 255) for tone in colour)
    return red, green, blue


def _background(dice: Dice, size: int) -> Image.Image:
    """A gradient between two pale tones."""
    tones = [_vary(dice, (light, light, light)) for light in (dice.between(190, 240), dice.between(190, 240))]
    first, second = (Image.new("RGB", (size, size), tone) for tone in tones)
    return Image.composite(first, second, _gradient(dice.between(0, 7), size))


@lru_cache
def _gradient(direction: int, size: int) -> Image.Image:
    angle = direction * math.pi / 4
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    ramp = 0.5 + (x * math.cos(angle) + y * math.sin(angle)) / (2 * math.sqrt(2))
    return Image.fromarray((ramp * 255).astype(np.uint8))


@lru_cache
def _masks(shape: str, texture: str, edge: int, unit: float) -> tuple[Image.Image, Image.Image]:
    """Masks (L) of an object and of the marks on it, `edge` pixels wide; `unit` is in pixels."""
    large = edge * _SUPERSAMPLE
    outline, hole = ([(x * large, y * large) for x, y in points] for points in OUTLINES[shape])
    body = Image.new("L", (large, large))
    brush = ImageDraw.Draw(body)
    brush.polygon(outline, fill=255)
    marks = _pattern(texture, large, _PERIOD * unit * _SUPERSAMPLE)
    rim = ImageDraw.Draw(marks)
    width = round(2 * _RIM * unit * _SUPERSAMPLE)
    rim.line([*outline, outline[0]], fill=0, width=width)
    if hole:
        brush.polygon(hole, fill=0)
        rim.line(hole, fill=0, width=width)
    return body.reduce(_SUPERSAMPLE), ImageChops.darker(marks, body).reduce(_SUPERSAMPLE)


def _pattern(texture: str, edge: int, period: float) -> Image.Image:
    """Diagonal stripes or staggered dots, symmetric about the centre; black where the texture is plain."""
    y, x = np.mgrid[0:edge, 0:edge] + 0.5 - edge / 2
    if texture == "striped":
        wave = np.cos(2 * math.pi * (x + y) / math.sqrt(2) / period)
        return Image.fromarray(np.where(wave > 0.2, 255, 0).astype(np.uint8))
    if texture == "dotted":
        row = np.round(y / (0.87 * period))
        aside = (x / period + row / 2 + 0.5) % 1 - 0.5
        away = np.hypot(aside * period, y - row * 0.87 * period)
        return Image.fromarray(np.where(away < 0.3 * period, 255, 0).astype(np.uint8))
    return Image.new("L", (edge, edge))
