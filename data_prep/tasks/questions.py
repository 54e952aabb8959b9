"""Questions about images, and their records."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from data_prep.source.local import MISSING
from data_prep.source.rows import Row
from data_prep.tasks.corpus import Tally

_ID = re.compile(r"(\d{1,18})\.\w+$")


class Question(NamedTuple):
    """A question about an image; `answers`, normalised, and `kind`, that of the answer, are empty where they are not known."""

    id: int
    image: int
    text: str
    answers: Sequence[str] = ()
    kind: str = ""


def by_image(questions: Iterable[Question]) -> dict[int, list[Question]]:
    """Image -> its questions, in their order."""
    found: dict[int, list[Question]] = {}
    for question in questions:
        found.setdefault(question.image, []).append(question)
    return found


def question_rows(questions: Sequence[Question], files: Iterable[str], key: str, tally: Tally) -> list[Row]:
    """A row for each image with a question.

    `files`: paths of images, whose names end with their ids. `key`: the format of a record's key.
    """
    images: dict[int, str] = {}
    for file in files:
        if found := _ID.search(file):
            images.setdefault(int(found[1]), file)
    asked = by_image(questions)
    tally.note("images without a question", (file for image, file in images.items() if image not in asked))
    tally.note("questions without an image", (q.id for q in questions if q.image not in images))
    rows = []
    for image, of_image in asked.items():
        meta = {"image_id": image, "ids": [question.id for question in of_image]}
        if all(question.answers for question in of_image):
            meta["answers"] = [list(question.answers) for question in of_image]
        if all(question.kind for question in of_image):
            meta["answer_types"] = [question.kind for question in of_image]
        state = "" if image in images else MISSING
        rows.append(Row(key.format(image), images.get(image, ""), [q.text for q in of_image], meta, state=state))
    return rows
