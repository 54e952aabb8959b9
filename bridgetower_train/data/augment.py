"""What training does to images, as pure functions of the seed and the image's index in the run.

FLIP (Li et al., "Scaling language-image pre-training via masking", 2023) leaves patches out. RandAugment (Cubuk et al., 2020), as
in Microsoft's fine-tuning, is a random crop of at least half the image, then two operations at a fixed strength, with a random
sign where the operation has one. Its two forms are in VARIANTS.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from bridgetower_train import random
from bridgetower_train.config import ModelConfig, TrainConfig
from bridgetower_train.data.image import Pixels, preprocessing
from bridgetower_train.data.order import IntArray

SCALE = (0.5, 1.0)
"""Area of the crop as a share of the image's."""
ASPECT = (3 / 4, 4 / 3)
"""Width over height of the crop, before it is made square."""
OPERATIONS = 2
"""Operations drawn for an image."""

_CROPS_TRIED = 10

Operation = Callable[[Image.Image, float], Image.Image]
Fill = tuple[int, int, int]
Move = Callable[[Image.Image, float, Fill], Image.Image]
"""An operation that leaves room, which it fills."""


class Variant(NamedTuple):
    """A form of RandAugment."""

    strength: float
    """How far along its range the argument of an operation lies."""
    probability: float = 1.0
    """That a drawn operation is applied."""
    flips: bool = True
    only: tuple[str, ...] = ()
    """The operations; empty: all. `identity` changes nothing."""
    shifts: float = 1.0
    """By how much shifts differ from those in the table."""
    fill: Fill = (0, 0, 0)


VARIANTS = {
    "randaugment": Variant(strength=7 / 30),
    "randaugment_vqa": Variant(
        strength=5 / 10,
        probability=0.5,
        flips=False,  # or left would be right
        only=(
            "identity", "autocontrast", "equalize", "brightness", "sharpness", "rotate", "shear x", "shear y", "shift x",
            "shift y",
        ),
        shifts=0.1,
        fill=(128, 128, 128),
    ),
}  # fmt: skip
"""`data.augment` -> Microsoft's RandAugment(2, 7) with colour, for retrieval, SNLI-VE and NLVR2; for VQAv2 the RandAugment(2, 5)
of BLIP, where each operation is applied to half of the images for which it is drawn."""


def _moved(image: Image.Image, matrix: tuple[float, ...], fill: Fill) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, fillcolor=fill)


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
_SIGNED: dict[str, tuple[Move, float, float]] = {
    "rotate": (lambda image, degrees, fill: image.rotate(degrees, fillcolor=fill), 0, 30),
    "shear x": (lambda image, v, fill: _moved(image, (1, v, 0, 0, 1, 0), fill), 0, 0.3),
    "shear y": (lambda image, v, fill: _moved(image, (1, 0, 0, v, 1, 0), fill), 0, 0.3),
    "shift x": (lambda image, v, fill: _moved(image, (1, 0, v, 0, 1, 0), fill), 0, 100),
    "shift y": (lambda image, v, fill: _moved(image, (1, 0, 0, 0, 1, v), fill), 0, 100),
}
"""Operation -> its function, and the range of its argument; signed ones go in both directions. Shifts are in pixels."""


def rand_augment(pixels: Pixels, size: int, seed: int, image_index: int, variant: str = "randaugment") -> Pixels:
    """uint8 (H, W, 3) -> (size, size, 3): cropped, perhaps flipped, and changed at random, by `seed` and `image_index`."""
    form = VARIANTS[variant]
    image = Image.fromarray(pixels)
    box = crop_box(image.width, image.height, seed, image_index)
    image = image.resize((size, size), Image.Resampling.BICUBIC, box)
    if form.flips and random.uniform(seed, "augment.flip", image_index) < 0.5:
        image = ImageOps.mirror(image)
    names = form.only or (*_PLAIN, *_SIGNED)
    for turn in range(OPERATIONS):
        name = names[int(random.below(seed, "augment.operation", len(names), image_index, turn))]
        if form.probability == 1 or random.uniform(seed, "augment.apply", image_index, turn) < form.probability:
            image = _applied(image, name, form, seed, image_index, turn)
    return np.asarray(image)


def _applied(image: Image.Image, name: str, form: Variant, seed: int, image_index: int, turn: int) -> Image.Image:
    if name in _PLAIN:
        operation, low, high = _PLAIN[name]
        return operation(image, low + form.strength * (high - low))
    if name in _SIGNED:
        move, low, high = _SIGNED[name]
        strength = (low + form.strength * (high - low)) * (form.shifts if name.startswith("shift") else 1)
        negative = random.uniform(seed, "augment.sign", image_index, turn) < 0.5
        return move(image, -strength if negative else strength, form.fill)
    return image


def in_training(config: TrainConfig) -> str:
    """What training does to images, in words."""
    model = config.model
    plain, augmented = preprocessing(model.image_size, config.data.square), _augmented(config.data.augment)
    if model.kept_patches is not None:
        return f"{augmented or plain}; {patches_in_words(model)}; in evaluation: {plain}, all patches"
    return f"{augmented}; in evaluation: {plain}" if augmented else plain


def _augmented(augment: str) -> str:
    flip = ", flip" if augment in VARIANTS and VARIANTS[augment].flips else ""
    return f"random crop{flip} and RandAugment" if augment in VARIANTS else ""


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


def kept_patches(seed: int, image_index: IntArray, patches: int, kept: int) -> IntArray:
    """int64 (images, kept): which of so many `patches` are kept of each image, ascending; any as likely as another.

    A function of the seed and the image's index in the run alone.
    """
    drawn = random.bits(seed, "patches", image_index[:, None], np.arange(patches))
    least: IntArray = np.argpartition(drawn, kept - 1, axis=1)[:, :kept].astype(np.int64)
    return np.sort(least, axis=1)


def patches_in_words(model: ModelConfig) -> str:
    """What `model.patch_dropout` leaves, for people."""
    until = f" until {model.patch_dropout_until} of the run" if None in model.patch_counts else ""
    return f"{model.kept_patches} of {model.image_tokens - 1} patches, drawn for each sample{until}"
