"""Questions, hypotheses and statements about the scenes of the `shapes` corpus, and what is true of them.

Of each text about as many are kept with each answer, so that a text alone does not tell its answer.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from data_prep.shapes.scene import Dice, Scene

SIDES = {"left of": ("left", "right"), "right of": ("right", "left")}
"""Relation of the first object to the second -> what each is called."""
NUMBERS, YES_NO = ("0", "1", "2"), ("yes", "no")
LABELS = ("contradiction", "neutral", "entailment")
_PLURALS = {"cross": "crosses"}


class Claim(NamedTuple):
    """A text about an image, or a pair of them."""

    image: int
    text: str
    answer: str
    kind: str = ""
    """Of the answer, as VQAv2 names it."""
    answers: tuple[str, ...] = ()
    """What people may answer."""


def questions(image: int, scene: Scene) -> list[Claim]:
    """How many objects have a shape, which colour one has, by its shape and by its side, and whether it is the larger one."""
    palette, items = scene.palette, scene.items
    shapes = [item.shape for item in items]
    counts = {_PLURALS.get(shape, f"{shape}s"): str(shapes.count(shape)) for shape in palette.shapes}
    found = [Claim(image, f"how many {name}?", n, "number", NUMBERS) for name, n in counts.items() if n in NUMBERS]
    named = [(item.shape, item) for item in items if shapes.count(item.shape) == 1]
    if len(items) == 2:
        named += [
            (f"{side} object", item) for side, item in zip(SIDES.get(scene.relations[0], ()), items, strict=False)
        ]
        if len({*shapes}) == 2 and len({item.size for item in items}) == 2:
            larger = {item.shape: "yes" if item.size == "large" else "no" for item in items}
            found += [Claim(image, f"is the {shape} larger?", yes, "yes/no", YES_NO) for shape, yes in larger.items()]
    return found + [
        Claim(image, f"what colour is the {name}?", item.colour, "other", palette.colours) for name, item in named
    ]


def hypotheses(image: int, scene: Scene, dice: Dice) -> list[Claim]:
    """The colour of a shape that is there once: the true one, or another; of a shape that is not there nothing is known."""
    shapes, palette = [item.shape for item in scene.items], scene.palette
    found = []
    for item in scene.items:
        if shapes.count(item.shape) == 1:
            other = dice.choose([colour for colour in palette.colours if colour != item.colour])
            absent = dice.choose([shape for shape in palette.shapes if shape not in shapes])
            for colour, shape, label in (
                (item.colour, item.shape, LABELS[2]),
                (other, item.shape, LABELS[0]),
                (dice.choose(palette.colours), absent, LABELS[1]),
            ):
                found.append(Claim(image, f"the {shape} is {colour}", label))
    return found


def statements(left: Scene, right: Scene) -> dict[str, bool]:
    """Statements about two images -> whether they are true."""
    found = {}
    for word in (*left.palette.shapes, *left.palette.colours):
        shown = word if word in left.palette.shapes else f"{word} object"
        shown = f"{'an' if shown[0] in 'aeiou' else 'a'} {shown}"
        of_left, of_right = (any(word in (item.shape, item.colour) for item in scene.items) for scene in (left, right))
        found[f"both images show {shown}"] = of_left and of_right
        found[f"the left image shows {shown}"] = of_left
        found[f"the right image shows {shown}"] = of_right
    return found


def task_texts(scene: Scene) -> list[str]:
    """Texts of all tasks, for a tokenizer."""
    claims = [*questions(0, scene), *hypotheses(0, scene, Dice(0, "shapes.tokenizer", 0))]
    return [*(claim.text for claim in claims), *(text for text, true in statements(scene, scene).items() if true)]


def balanced(claims: Iterable[Claim]) -> list[Claim]:
    """The claims, in their order, without those that give a text an answer more often than its rarest answer."""
    groups: dict[str, dict[str, list[Claim]]] = defaultdict(lambda: defaultdict(list))
    for claim in claims:
        groups[claim.text][claim.answer].append(claim)
    kept = [
        claim
        for by_answer in groups.values()
        if len(by_answer) > 1
        for of_answer in by_answer.values()
        for claim in of_answer[: min(map(len, by_answer.values()))]
    ]
    return sorted(kept, key=lambda claim: claim.image)
