"""Visual Genome's questions, as more to train on for VQAv2: one record per image.

An answer that one person gave counts as one that all ten gave. A question that has several answers is left out, and one that is
asked again is taken once.
"""

from dataclasses import dataclass
from typing import Any

from bridgetower_train.data.answers import normalise
from bridgetower_train.data.manifest import ANSWERS
from bridgetower_train.errors import ConfigError
from data_prep.source.annotations import digest_file, expecting, number, read_array, usable
from data_prep.tasks.corpus import Tally, TaskConfig, digest, listed, paths, read_names, write
from data_prep.tasks.questions import Question, question_rows

_PEOPLE = 10
_KEPT = "questions that train"
_PUBLISHED = {"questions": 1_445_322, "images": 99_280, _KEPT: 931_866}
_ABOUT = {
    "title": "Visual Genome QA",
    "homepage": "https://homes.cs.washington.edu/~ranjay/visualgenome",
    "licence": "annotations CC BY 4.0; the photographs are those of COCO and YFCC100M, each under its own licence",
    "note": "questions about images and their regions, each with one answer",
}
_QUESTIONS = (
    "is not Visual Genome's question_answers.json; it must be a list of objects with `qas`, each with `qa_id`, `image_id`, "
    "`question` and `answer`"
)
_IMAGES = "is not Visual Genome's image_data.json; it must be a list of objects with `image_id` and `coco_id`"


@dataclass(frozen=True)
class VgqaConfig(TaskConfig):
    """`bridgetower prep vgqa`: write Visual Genome's questions as a corpus that is trained together with VQAv2."""

    images: Any = "???"
    """Folder of `VG_100K` and `VG_100K_2`, or a list of folders."""
    questions: str = "???"
    """`question_answers.json`."""
    answers: str = "???"
    """`answers.json` of the VQAv2 corpus: questions with other answers are left out."""
    image_data: str | None = None
    """`image_data.json`: records then note which image of COCO theirs is; half of them are, of VQAv2's val too."""
    name: str = "vgqa"
    """Name of the corpus folder."""
    size: int = 576
    """Pixels: larger images are reduced to this shorter edge; by default the size at which the recipe evaluates."""


def run(config: VgqaConfig) -> None:
    """Write the corpus, or resume.

    ConfigError where a file is missing or has nothing that can be used, DataError where one has another layout.
    """
    folders, tally = paths("images", config.images), Tally()
    vocabulary = read_names("answers", config.answers)
    questions = _read_questions(config.questions, set(vocabulary), tally)
    if not questions:
        raise ConfigError(f"answers={config.answers}: has none of the answers of questions={config.questions}")
    rows = question_rows(questions, listed(config, folders), "{:07d}", tally)
    identity = {"questions": digest("questions", [config.questions]), "answers": digest("answers", [config.answers])}
    if config.image_data:
        coco = _coco_ids(config.image_data)
        known = ({"coco_id": coco[image]} if (image := row.meta["image_id"]) in coco else {} for row in rows)
        rows = [row._replace(meta={**row.meta, **more}) for row, more in zip(rows, known, strict=True)]
        identity["image_data"] = digest_file("image_data", config.image_data)
    tally.compare([_PUBLISHED])
    tally.report(config.name)
    extra = {"task": "vqav2", "split": config.split or "train", "counts": dict(tally.counts)}
    write(config, config.name, rows, folders, identity, _ABOUT, extra, {ANSWERS: vocabulary})


def _read_questions(path: str, vocabulary: set[str], tally: Tally) -> list[Question]:
    kept = []
    with expecting("questions", path, _QUESTIONS):
        for image in usable(read_array("questions", path), lambda image: list(usable(image["qas"], _question))):
            if image is None:
                tally.note("broken images", ["no `qas`"])
                continue
            tally.counts["questions"] += len(image)
            tally.counts["images"] += bool(image)
            tally.note("broken questions", ("no id" for question in image if question is None))
            inside: dict[tuple[int, str], list[Question]] = {}
            for question in filter(None, image):
                if vocabulary.isdisjoint(question.answers):
                    tally.note("questions outside the vocabulary", [question.id])
                else:
                    inside.setdefault((question.image, question.text), []).append(question)
            for first, *others in inside.values():
                if any(other.answers != first.answers for other in others):
                    tally.note("questions with several answers", [first.id, *(other.id for other in others)])
                else:
                    tally.note("questions that are asked again", (other.id for other in others))
                    kept.append(first)
    tally.counts[_KEPT] = len(kept)
    return kept


def _question(item: Any) -> Question:
    text, answers = item["question"], [normalise(item["answer"])] * _PEOPLE
    if not isinstance(text, str) or not text.strip():
        raise TypeError("no text")
    return Question(number(item["qa_id"]), number(item["image_id"]), text, answers)


def _coco_ids(path: str) -> dict[int, int]:
    """Image of Visual Genome -> that of COCO."""
    with expecting("image_data", path, _IMAGES):
        found = usable(read_array("image_data", path), lambda image: (number(image["image_id"]), image["coco_id"]))
        return {image: number(coco) for image, coco in filter(None, found) if coco is not None}
