"""RandAugment (Cubuk et al., 2020) for fine-tuning, as a pure function of the seed and the image's index in the run.

As in Microsoft's fine-tuning for retrieval: a random crop of at least half the image, a random flip, then two of the
fourteen operations at a fixed strength, with a random sign where the operation has one.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from bridgetower_train import random
from bridgetower_train.config import TrainConfig
from bridgetower_train.data.image import Pixels, preprocessing

SCALE = (0.5, 1.0)
"""Area of the crop as a share of the image's."""
ASPECT = (3 / 4, 4 / 3)
"""Width over height of the crop, before it is made square."""
OPERATIONS, STRENGTH = 2, 7 / 30
"""Operations per image, and how far along its range the argument of each lies."""

_CROPS_TRIED = 10

Operation = Callable[[Image.Image, float], Image.Image]


def _affine(*matrix: float) -> tuple[Image.Transform, tuple[float, ...]]:
    return Image.Transform.AFFINE, matrix


def _add_and_solarize(image: Image.Image, amount: float) -> Image.Image:
    return ImageOps.solarize(image.point(lambda value: min(255, value + int(amount))), 128)


_PLAIN: dict[str, tuple[Operation, float, float]] = {
    "autocontrast": (lambda image, _: ImageOps.autocontrast(image), 0, 1),
    "equalize": (lambda image, _: ImageOps.equalize(image), 0, 1),
    "posterize": (lambda image, bits: ImageOps.posterize(image, max(1, int(bits))), 0, 4),
    "solarize": (lambda image, threshold: ImageOps.solarize(image, int(threshold)), 0, 256),
    "solarize add": (_add_and_solarize, 0, 110),
    "colour": (lambda image, factor: ImageEnhance.Color(image).enhance(factor), 0.1, 1.9),
    "contrast": (lambda image, factor: ImageEnhance.Contrast(image).enhance(factor), 0.1, 1.9),
    "brightness": (lambda image, factor: ImageEnhance.Brightness(image).enhance(factor), 0.1, 1.9),
    "sharpness": (lambda image, factor: ImageEnhance.Sharpness(image).enhance(factor), 0.1, 1.9),
}
_SIGNED: dict[str, tuple[Operation, float, float]] = {
    "rotate": (lambda image, degrees: image.rotate(degrees), 0, 30),
    "shear x": (lambda image, v: image.transform(image.size, *_affine(1, v, 0, 0, 1, 0)), 0, 0.3),
    "shear y": (lambda image, v: image.transform(image.size, *_affine(1, 0, 0, v, 1, 0)), 0, 0.3),
    "shift x": (lambda image, v: image.transform(image.size, *_affine(1, 0, v, 0, 1, 0)), 0, 100),
    "shift y": (lambda image, v: image.transform(image.size, *_affine(1, 0, 0, 0, 1, v)), 0, 100),
}
"""Operation -> its function, and the range of its argument; signed ones go in both directions. Shifts are in pixels."""


def rand_augment(pixels: Pixels, size: int, seed: int, image_index: int) -> Pixels:
    """uint8 (H, W, 3) -> (size, size, 3): cropped, flipped and changed at random, by `seed` and `image_index`."""
    image = Image.fromarray(pixels)
    box = crop_box(image.width, image.height, seed, image_index)
    image = image.resize((size, size), Image.Resampling.BICUBIC, box)
    if random.uniform(seed, "augment.flip", image_index) < 0.5:
        image = ImageOps.mirror(image)
    every = list((_PLAIN | _SIGNED).items())
    for turn in range(OPERATIONS):
        drawn = int(random.below(seed, "augment.operation", len(every), image_index, turn))
        name, (operation, low, high) = every[drawn]
        strength = low + STRENGTH * (high - low)
        negative = name in _SIGNED and random.uniform(seed, "augment.sign", image_index, turn) < 0.5
        image = operation(image, -strength if negative else strength)
    return np.asarray(image)


def in_training(config: TrainConfig) -> str:
    """How training makes images square, in words."""
    plain = preprocessing(config.model.image_size, config.data.square)
    return plain if config.data.augment == "none" else f"random crop, flip and RandAugment; in evaluation: {plain}"


def crop_box(width: int, height: int, seed: int, image_index: int) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of a crop of SCALE and ASPECT; the largest centred square if none fits."""
    draws = random.uniform(seed, "augment.crop", image_index, np.arange(4 * _CROPS_TRIED)).reshape(-1, 4)
    for area, aspect, across, down in draws.tolist():
        target = width * height * (SCALE[0] + area * (SCALE[1] - SCALE[0]))
        ratio = ASPECT[0] * (ASPECT[1] / ASPECT[0]) ** aspect
        w, h = round((target * ratio) ** 0.5), round((target / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left, top = across * (width - w), down * (height - h)
            return left, top, left + w, top + h
    edge = min(width, height)
    left, top = (width - edge) / 2, (height - edge) / 2
    return left, top, left + edge, top + edge
