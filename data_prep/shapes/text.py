"""Captions of the scenes of the `shapes` corpus."""

from data_prep.shapes.scene import INVERSE, Dice, Item, Scene

WORDS: dict[str, tuple[str, ...]] = {
    "small": ("small", "little"),
    "large": ("large", "big"),
    "plain": ("plain", "solid"),
    "striped": ("striped", "with stripes"),
    "dotted": ("dotted", "with dots"),
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
    "upper left": ("upper left", "top left"),
    "upper right": ("upper right", "top right"),
    "lower left": ("lower left", "bottom left"),
    "lower right": ("lower right", "bottom right"),
    "middle": ("middle", "center"),
}
"""Attribute or relation -> its wordings in captions. A full description of an object uses the first one."""
_OPENINGS = ("there is ", "here is ", "a picture of ", "a picture with ", "we see ")


def captions(scene: Scene, dice: Dice) -> list[str]:
    """Five captions of `scene`, all true, each naming the colour of every object.

    The first two describe the objects in full, with their relations or their place; the third states one relation or the
    place in varying words, the fourth lists the objects, and the fifth names only their colours and shapes.
    """
    full = [_article(f"{item.size} {item.texture} {item.colour} {item.shape}") for item in scene.items]
    describe = (_describe_one, _describe_two, _describe_three)[len(full) - 1]
    return [
        *describe(scene, full, dice),
        _loose_relation(scene, dice),
        dice.choose(_OPENINGS) + _enumerate([_article(_loose(item, dice)) for item in scene.items]),
        ", ".join(_article(f"{item.colour} {item.shape}") for item in scene.items),
    ]


def _describe_one(scene: Scene, full: list[str], dice: Dice) -> tuple[str, str]:
    place = _word(scene.place, dice)
    return f"{full[0]} alone in the {place}", f"{dice.choose(_OPENINGS)}only {full[0]} in the {place}"


def _describe_two(scene: Scene, full: list[str], dice: Dice) -> tuple[str, str]:
    (relation,) = scene.relations
    forth = f"{full[0]} {_word(relation, dice)} {full[1]}"
    back = f"{full[1]} {_word(INVERSE[relation], dice)} {full[0]}"
    return forth, dice.choose(_OPENINGS) + back


def _describe_three(scene: Scene, full: list[str], dice: Dice) -> tuple[str, str]:
    """From the first object to both others, and from one of the others by way of the first to the last."""
    forth = [f"{_word(relation, dice)} {other}" for relation, other in zip(scene.relations, full[1:], strict=True)]
    start = dice.choose((0, 1))
    back = f"{full[1 + start]} {_word(INVERSE[scene.relations[start]], dice)} {full[0]}"
    return f"{full[0]} {' and '.join(forth)}", f"{dice.choose(_OPENINGS)}{back}, which is {forth[1 - start]}"


def _loose_relation(scene: Scene, dice: Dice) -> str:
    first = f"the {_loose(scene.items[0], dice)} is"
    if not scene.relations:
        return f"{first} in the {_word(scene.place, dice)}"
    other = dice.between(0, len(scene.relations) - 1)
    return f"{first} {_word(scene.relations[other], dice)} the {_loose(scene.items[1 + other], dice)}"


def _loose(item: Item, dice: Dice) -> str:
    """Colour and shape; size and texture with a probability of one half each."""
    size = _word(item.size, dice) if dice.choose((True, False)) else ""
    texture = _word(item.texture, dice) if dice.choose((True, False)) else ""
    words = [size, item.colour, item.shape, texture] if " " in texture else [size, texture, item.colour, item.shape]
    return " ".join(filter(None, words))


def _enumerate(phrases: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(phrases[:-1]), phrases[-1]]))


def _word(meaning: str, dice: Dice) -> str:
    return dice.choose(WORDS[meaning])


def _article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"
