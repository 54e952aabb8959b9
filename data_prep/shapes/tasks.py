"""Source files of tasks about images of the `shapes` corpus, in the layouts of VQAv2, SNLI-VE and NLVR2.

`prep vqav2`, `prep snli_ve` and `prep nlvr2` read them as they read those that were published.
"""

import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from bridgetower_train.files import atomic_write, recreate
from data_prep.shapes.claims import Claim, balanced, hypotheses, questions, statements
from data_prep.shapes.scene import Dice, Scene

_PEOPLE = 10
_WRONG, _SPELLED, _UNSURE = 20, 4, 50
"""One in so many answers is wrong; one in so many right ones is spelled differently; one in so many labels is missing."""
_SPELLINGS = {"0": "none", "1": "one", "2": "Two"}
_DIRECTORIES = 100


class Drawing(NamedTuple):
    """An image of the corpus."""

    number: int
    scene: Scene
    caption: str
    jpeg: bytes


def write_split(folder: Path, split: str, drawings: Iterable[Drawing], seed: int) -> None:
    """Write the files of all tasks of a split, `train` or `val`, into `folder`: images as they come, then the annotations."""
    scenes: list[tuple[int, Scene, str]] = []
    for drawing in drawings:
        number, scene, caption, jpeg = drawing
        scenes.append((number, scene, caption))
        _write(folder / f"vqav2/{split}2014/COCO_{split}2014_{number:012d}.jpg", jpeg)
        _write(folder / f"snli_ve/flickr30k-images/{number}.jpg", jpeg)
        _write(folder / f"nlvr2/{_picture(split, len(scenes) - 1)}", _png(jpeg))
    _write_vqav2(folder / "vqav2", split, scenes, seed)
    _write_snli_ve(folder / "snli_ve", split, scenes, seed)
    _write_nlvr2(folder / "nlvr2", split, scenes, seed)


def _write_vqav2(folder: Path, split: str, scenes: Sequence[tuple[int, Scene, str]], seed: int) -> None:
    asked, answered = [], []
    counted = dict[int, int]()
    for claim in balanced(claim for number, scene, _ in scenes for claim in questions(number, scene)):
        order = counted[claim.image] = counted.get(claim.image, -1) + 1
        question = {"image_id": claim.image, "question_id": claim.image * 100 + order}
        dice = Dice(seed, "shapes.answers", question["question_id"])
        given = [_answer(claim, dice) for _ in range(_PEOPLE)]
        asked.append({**question, "question": claim.text})
        answered.append(
            {
                **question,
                "multiple_choice_answer": claim.answer,
                "question_type": " ".join(claim.text.split()[:2]),
                "answer_type": claim.kind,
                "answers": [
                    {"answer": answer, "answer_confidence": "yes", "answer_id": n} for n, answer in enumerate(given, 1)
                ],
            }
        )
    _write_json(folder / f"v2_OpenEnded_mscoco_{split}2014_questions.json", {"questions": asked})
    _write_json(folder / f"v2_mscoco_{split}2014_annotations.json", {"annotations": answered})


def _answer(claim: Claim, dice: Dice) -> str:
    """As one of ten people gives it."""
    if dice.between(1, _WRONG) == 1:
        return dice.choose([answer for answer in claim.answers if answer != claim.answer])
    if dice.between(1, _SPELLED) == 1:
        return _SPELLINGS.get(claim.answer, f"{claim.answer.capitalize()}.")
    return claim.answer


def _write_snli_ve(folder: Path, split: str, scenes: Sequence[tuple[int, Scene, str]], seed: int) -> None:
    premises = {number: caption for number, _, caption in scenes}
    claims = balanced(
        claim
        for number, scene, _ in scenes
        for claim in hypotheses(number, scene, Dice(seed, "shapes.hypotheses", number))
    )
    lines = []
    for order, claim in enumerate(claims):
        unsure = Dice(seed, f"shapes.{split}.labels", order).between(1, _UNSURE) == 1
        lines.append(
            {
                "Flickr30K_ID": str(claim.image),
                "pairID": f"{claim.image}.jpg#{order}",
                "sentence1": premises[claim.image],
                "sentence2": claim.text,
                "gold_label": "-" if unsure else claim.answer,
            }
        )
    _write_lines(folder / f"snli_ve_{'dev' if split == 'val' else split}.jsonl", lines)


def _write_nlvr2(folder: Path, split: str, scenes: Sequence[tuple[int, Scene, str]], seed: int) -> None:
    """Of two pairs of images in a row, a statement that is true of the first alone, and one that is true of the second alone."""
    name = "dev" if split == "val" else split
    lines = []
    for number in range(len(scenes) // 4):
        four = [scene for _, scene, _ in scenes[4 * number : 4 * number + 4]]
        first, second = statements(*four[:2]), statements(*four[2:])
        dice = Dice(seed, f"shapes.{split}.statements", number)
        for order, true_of in enumerate((0, 1)):
            fit = [text for text in first if (first[text], second[text]) == (true_of == 0, true_of == 1)]
            kinds = sorted({text.split()[1] for text in fit})
            if not fit:
                continue
            kind = dice.choose(kinds)
            sentence = dice.choose([text for text in fit if text.split()[1] == kind])
            for pair, true in enumerate((first[sentence], second[sentence])):
                line = {"identifier": f"{name}-{number}-{pair}-{order}", "sentence": sentence, "label": str(true)}
                lines.append(line | ({"directory": number % _DIRECTORIES} if split == "train" else {}))
    _write_lines(folder / f"{name}.json", lines)


def _picture(split: str, order: int) -> str:
    """Path of the image that is number `order` of its split."""
    name = "dev" if split == "val" else split
    number, of_set = divmod(order, 4)
    folder = f"images/train/{number % _DIRECTORIES}" if split == "train" else name
    return f"{folder}/{name}-{number}-{of_set // 2}-img{of_set % 2}.png"


def _png(jpeg: bytes) -> bytes:
    out = io.BytesIO()
    Image.open(io.BytesIO(jpeg), formats=("JPEG",)).save(out, "PNG")
    return out.getvalue()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with recreate(path) as file:
        file.write(data)


def _write_json(path: Path, content: Any) -> None:
    atomic_write(path, json.dumps(content))


def _write_lines(path: Path, lines: Iterable[Any]) -> None:
    atomic_write(path, "".join(json.dumps(line) + "\n" for line in lines))
