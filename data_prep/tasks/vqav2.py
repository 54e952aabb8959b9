"""VQAv2: one record per image with all questions about it, each with the answers of ten people.

A question none of whose answers is in the vocabulary teaches nothing: it is left out of a corpus for training, and stays in
others, where it counts.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bridgetower_train.config import at_least
from bridgetower_train.data.answers import normalise
from bridgetower_train.data.manifest import ANSWERS
from bridgetower_train.errors import ConfigError
from data_prep.source.annotations import expecting, number, read_array, usable
from data_prep.tasks.corpus import Tally, TaskConfig, digest, listed, named, paths, read_names, write
from data_prep.tasks.questions import Question, by_image, question_rows

OUTSIDE = "questions outside the vocabulary"
INSIDE = "questions with an answer in the vocabulary"
_PUBLISHED = (
    {"questions": 443_757, "images": 82_783, INSIDE: 435_174},
    {"questions": 214_354, "images": 40_504, INSIDE: 210_207},
    {"questions": 658_111, "images": 123_287, INSIDE: 645_381},
    {"annotations": 658_111, "answers in the vocabulary": 3129},
)
"""Of the whole files of train, of val and of both; the vocabulary is that of both."""
_ABOUT = {
    "title": "VQAv2",
    "homepage": "https://visualqa.org",
    "licence": "annotations CC BY 4.0; the photographs are those of COCO, each under its own Flickr licence",
    "note": "questions about photographs of COCO, each answered by ten people",
}
_QUESTIONS = "has no questions of VQAv2; it must have `questions`, each with `question_id`, `image_id` and `question`"
_ANNOTATIONS = (
    "has no answers of VQAv2; it must have `annotations`, each with `question_id`, `multiple_choice_answer`, `answer_type` and "
    "`answers`"
)


@dataclass(frozen=True)
class Vqav2Config(TaskConfig):
    """`bridgetower prep vqav2`: write VQAv2's questions and answers as a corpus."""

    images: Any = "???"
    """Folder of the images, such as `train2014`, or a list of folders."""
    questions: Any = "???"
    """`v2_OpenEnded_mscoco_train2014_questions.json`, or a list of such files."""
    annotations: Any = None
    """`v2_mscoco_train2014_annotations.json`, or a list of such files, of further questions too, whose answers then are in the
    vocabulary; null: a test split, which has none."""
    least: int = 9
    """How often an answer must be given for the vocabulary: with the annotations of train and val it then has 3,129."""
    answers: str | None = None
    """`answers.json` of another corpus, whose vocabulary is taken instead."""
    holdout: int = 0
    """So many images, the last of `questions`, become a corpus of their own, NAME_holdout, for model selection."""
    size: int = 576
    """Pixels: larger images are reduced to this shorter edge; by default the size at which the recipe evaluates."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("least", self.least, 1)
        at_least("holdout", self.holdout, 0)


def run(config: Vqav2Config) -> None:
    """Write the corpus, or resume.

    ConfigError where files are missing, do not belong together or have nothing that can be used, DataError where one has another
    layout.
    """
    asked, folders = paths("questions", config.questions), paths("images", config.images)
    given = [] if config.annotations is None else paths("annotations", config.annotations)
    name, split = named(config, "vqav2", "questions", asked)
    if not given and split != "test":
        raise ConfigError(
            f"annotations: the split {split} needs them; name the files with the answers to these questions"
        )
    if given and split == "test":
        raise ConfigError("annotations: the split test has none; leave the key out, or set split=val")
    tally = Tally()
    questions = _read_questions(asked, tally)
    held = set(list(by_image(questions))[-config.holdout :]) if config.holdout else set()
    if config.holdout and len(held) == len(by_image(questions)):
        raise ConfigError(f"holdout={config.holdout}: there are only {len(held):,} images; hold out fewer")
    identity = {"questions": digest("questions", asked), "holdout": str(config.holdout)}
    vocabulary: list[str] = []
    if given:
        questions, vocabulary = _with_answers(config, questions, given, tally)
        identity |= {"annotations": digest("annotations", given), "least": str(config.least)}
        identity |= {"answers": digest("answers", [config.answers])} if config.answers else {}
        outside = _outside(questions, vocabulary, tally)
        if split == "train":
            questions = [q for q in questions if q.id not in outside or q.image in held]
    rows = question_rows(questions, listed(config, folders), "{:012d}", tally)
    rows = [row._replace(meta={**row.meta, "coco_id": row.meta["image_id"]}) for row in rows]
    tally.compare(_PUBLISHED)
    tally.report(name)
    extra = {"task": "vqav2", "split": split, "counts": dict(tally.counts)}
    files = {ANSWERS: vocabulary} if given else {}
    kept, held_out = ([row for row in rows if (row.meta["image_id"] in held) == out] for out in (False, True))
    write(config, name, kept, folders, identity, _ABOUT, extra, files)
    if held_out:
        write(config, f"{name}_holdout", held_out, folders, identity, _ABOUT, {**extra, "split": "val"}, files)


def _read_questions(files: Sequence[str], tally: Tally) -> list[Question]:
    found: dict[int, Question] = {}
    for file in files:
        with expecting("questions", file, _QUESTIONS):
            for question in usable(read_array("questions", file, "questions"), _question):
                tally.counts["questions"] += 1
                if question is None or question.id in found:
                    tally.note("broken or repeated questions", ["no id" if question is None else question.id])
                else:
                    found[question.id] = question
    if not found:
        raise ConfigError(f"questions={', '.join(files)}: {_QUESTIONS}")
    tally.counts["images"] = len(by_image(found.values()))
    return list(found.values())


def _question(item: Any) -> Question:
    text = item["question"]
    if not isinstance(text, str) or not text.strip():
        raise TypeError("no text")
    return Question(number(item["question_id"]), number(item["image_id"]), text)


def _with_answers(
    config: Vqav2Config, questions: Sequence[Question], files: Sequence[str], tally: Tally
) -> tuple[list[Question], list[str]]:
    """(the questions that have answers, with these; the vocabulary). ConfigError where there is no such question, or none."""
    frequent: Counter[str] = Counter()
    answers: dict[int, tuple[list[str], str]] = dict.fromkeys((question.id for question in questions), ([], ""))
    for file in files:
        with expecting("annotations", file, _ANNOTATIONS):
            for annotation in usable(read_array("annotations", file, "annotations"), _annotation):
                tally.counts["annotations"] += 1
                if annotation is None:
                    tally.note("broken annotations", ["no id"])
                    continue
                of, best, given, kind = annotation
                frequent[best] += 1
                if of in answers:
                    answers[of] = given, kind
    tally.note(
        "questions without an annotation", (question.id for question in questions if not answers[question.id][0])
    )
    found = [q._replace(answers=answers[q.id][0], kind=answers[q.id][1]) for q in questions if answers[q.id][0]]
    if not found:
        raise ConfigError(
            f"annotations={', '.join(files)}: answer none of these questions; name those of the same split"
        )
    vocabulary = read_names("answers", config.answers) if config.answers else _vocabulary(frequent, config.least)
    tally.counts["answers in the vocabulary"] = len(vocabulary)
    return found, vocabulary


def _vocabulary(frequent: Counter[str], least: int) -> list[str]:
    """The answers that are given `least` times, the most frequent first. ConfigError where there is none."""
    vocabulary = sorted((answer for answer, n in frequent.items() if n >= least), key=lambda a: (-frequent[a], a))
    if not vocabulary:
        raise ConfigError(f"least={least}: no answer is given that often; lower it")
    return vocabulary


def _annotation(item: Any) -> tuple[int, str, list[str], str]:
    """(id of the question, the answer that most gave, all answers, what kind of answer it is), answers normalised."""
    answers = [normalise(given["answer"]) for given in item["answers"]]
    if not answers:
        raise ValueError("no answers")
    return number(item["question_id"]), normalise(item["multiple_choice_answer"]), answers, str(item["answer_type"])


def _outside(questions: Sequence[Question], vocabulary: Sequence[str], tally: Tally) -> set[int]:
    """The questions none of whose answers is in the vocabulary."""
    known = set(vocabulary)
    outside = {question.id for question in questions if known.isdisjoint(question.answers)}
    tally.note(OUTSIDE, (question.id for question in questions if question.id in outside))
    tally.counts[INSIDE] = len(questions) - len(outside)
    return outside
