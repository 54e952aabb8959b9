"""VQAv2's own files: questions, answers, the vocabulary, and everything that can be wrong with them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bridgetower_train.cli import main
from bridgetower_train.data.answers import normalise
from bridgetower_train.errors import ConfigError, DataError
from data_prep.tasks.vqav2 import Vqav2Config, run
from tests.data_prep.tasks.reading import names, records


def configure(drawn: Path, out: Path, split: str = "train", **keys: Any) -> Vqav2Config:
    folder = drawn / "vqav2"
    given = {
        "images": str(folder / f"{split}2014"),
        "questions": str(folder / f"v2_OpenEnded_mscoco_{split}2014_questions.json"),
        "annotations": str(folder / f"v2_mscoco_{split}2014_annotations.json"),
        "least": 2,
        "workers": 1,
    }
    return Vqav2Config(out=str(out), **{**given, **keys})


def read(path: str, member: str) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads(Path(path).read_text())[member]
    return content


def change(path: str, target: Path, member: str, items: list[Any]) -> str:
    target.write_text(json.dumps({"info": {}, member: items}))
    return str(target)


def test_a_record_has_the_questions_of_an_image_with_normalised_answers(drawn: Path, tmp_path: Path) -> None:
    config = configure(drawn, tmp_path)
    run(config)
    corpus, found = records(tmp_path, "vqav2_train")
    questions = {q["question_id"]: q for q in read(config.questions, "questions")}
    annotations = {a["question_id"]: a for a in read(config.annotations, "annotations")}
    assert sorted(i for record in found for i in record.meta["ids"]) == sorted(questions)
    assert corpus.manifest.captions == len(questions)
    for record in found:
        assert record.key == f"{record.meta['image_id']:012d}"
        assert record.meta["coco_id"] == record.meta["image_id"]
        for order, number in enumerate(record.meta["ids"]):
            given = annotations[number]
            assert record.captions[order] == questions[number]["question"]
            assert record.meta["answers"][order] == [normalise(answer["answer"]) for answer in given["answers"]]
            assert record.meta["answer_types"][order] == given["answer_type"]
    assert corpus.manifest.extra["task"] == "vqav2"
    assert corpus.manifest.extra["split"] == "train"
    best = Counter(normalise(given["multiple_choice_answer"]) for given in annotations.values())
    vocabulary = names(tmp_path, "vqav2_train", "answers.json")
    assert set(vocabulary) == {answer for answer, count in best.items() if count >= 2}
    assert [best[answer] for answer in vocabulary] == sorted((best[answer] for answer in vocabulary), reverse=True)


def test_equal_questions_about_an_image_are_two_samples(drawn: Path, tmp_path: Path) -> None:
    config = configure(drawn, tmp_path)
    questions = read(config.questions, "questions")
    for question in questions:
        question["question"] = "what is it?\n"
    changed = change(config.questions, tmp_path / "train_questions.json", "questions", questions)
    run(configure(drawn, tmp_path, questions=changed))
    corpus, found = records(tmp_path, "vqav2_train")
    assert corpus.manifest.captions == len(questions)
    assert {text for record in found for text in record.captions} == {"what is it?"}


def test_questions_outside_the_vocabulary_do_not_train_but_count(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "val"):
        config = configure(drawn, tmp_path, split)
        annotations = read(config.annotations, "annotations")
        rare = annotations[0]["question_id"]
        for answer in annotations[0]["answers"]:
            answer["answer"] = "heron"
        changed = change(config.annotations, tmp_path / f"{split}.json", "annotations", annotations)
        run(configure(drawn, tmp_path, split, annotations=changed))
        _, found = records(tmp_path, f"vqav2_{split}")
        assert any(rare in record.meta["ids"] for record in found) == (split == "val")
        assert f"questions outside the vocabulary: 1 ({rare})" in capsys.readouterr().out


def test_the_vocabulary_may_be_that_of_more_annotations_or_of_another_corpus(drawn: Path, tmp_path: Path) -> None:
    config = configure(drawn, tmp_path)
    more = [
        a | {"question_id": -1, "multiple_choice_answer": "A heron."}
        for a in read(config.annotations, "annotations")[:2]
    ]
    other = change("", tmp_path / "more.json", "annotations", more)
    run(configure(drawn, tmp_path, annotations=[config.annotations, other]))
    wider = names(tmp_path, "vqav2_train", "answers.json")
    run(configure(drawn, tmp_path, name="narrow"))
    assert {*wider} - {*names(tmp_path, "narrow", "answers.json")} == {"heron"}
    run(configure(drawn, tmp_path, "val", answers=str(tmp_path / "vqav2_train" / "answers.json"), name="taken"))
    assert names(tmp_path, "taken", "answers.json") == wider


def test_the_last_images_can_be_held_out(drawn: Path, tmp_path: Path) -> None:
    folders = [str(drawn / "vqav2" / f"{split}2014") for split in ("train", "val")]
    files = [
        [str(drawn / "vqav2" / f"v2_{name}_{split}2014_{kind}.json") for split in ("train", "val")]
        for name, kind in (("OpenEnded_mscoco", "questions"), ("mscoco", "annotations"))
    ]
    run(configure(drawn, tmp_path, images=folders, questions=files[0], annotations=files[1], holdout=5))
    corpus, kept = records(tmp_path, "vqav2_trainval")
    held_corpus, held = records(tmp_path, "vqav2_trainval_holdout")
    last = [question["image_id"] for question in read(files[0][1], "questions")]
    assert [record.meta["image_id"] for record in held] == list(dict.fromkeys(last))[-5:]
    assert not {record.key for record in kept} & {record.key for record in held}
    assert (corpus.manifest.extra["split"], held_corpus.manifest.extra["split"]) == ("train", "val")


def test_a_test_split_has_no_answers_and_is_marked(drawn: Path, tmp_path: Path) -> None:
    config = configure(drawn, tmp_path)
    questions = read(config.questions, "questions")
    test = change("", tmp_path / "v2_OpenEnded_mscoco_test-dev2015_questions.json", "questions", questions)
    run(configure(drawn, tmp_path, questions=test, annotations=None))
    corpus, found = records(tmp_path, "vqav2_test_dev")
    assert "answers" not in found[0].meta
    assert not (tmp_path / "vqav2_test_dev" / "answers.json").exists()
    assert corpus.manifest.extra["split"] == "test"
    assert corpus.manifest.splits == ["test"]
    assert sum(len(record.meta["ids"]) for record in found) == len(questions)
    with pytest.raises(ConfigError, match="annotations: the split test has none"):
        run(configure(drawn, tmp_path, questions=test))


def test_what_is_missing_is_named_and_counted(drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = configure(drawn, tmp_path)
    questions = read(config.questions, "questions")
    first, image = questions[0]["question_id"], questions[-1]["image_id"]
    gone = [q["question_id"] for q in questions if q["image_id"] == image]
    images = tmp_path / "images"
    images.mkdir()
    for file in Path(config.images).iterdir():
        if f"{image:012d}" not in file.name:
            (images / file.name).write_bytes(file.read_bytes())
    (images / "A_000000999999.jpg").write_bytes(b"")
    broken = [*questions, questions[0], {"question_id": "x"}, {"question_id": 1, "image_id": 2, "question": " "}]
    changed = change(config.questions, tmp_path / "train.json", "questions", broken)
    annotations = [a for a in read(config.annotations, "annotations") if a["question_id"] != first]
    answered = change(config.annotations, tmp_path / "answers_train.json", "annotations", [*annotations, {}])
    run(configure(drawn, tmp_path, images=str(images), questions=changed, annotations=answered))
    out = capsys.readouterr().out
    assert f"broken or repeated questions: 3 ({first}, no id, no id)" in out
    assert f"questions without an annotation: 1 ({first})" in out
    assert f"questions without an image: {len(gone)} ({gone[0]}" in out
    assert "A_000000999999.jpg" in out.partition("images without a question")[2]
    assert "broken annotations: 1" in out
    corpus, _ = records(tmp_path, "vqav2_train")
    assert corpus.manifest.extra["states"]["missing file"] == 1
    assert corpus.manifest.extra["counts"]["questions without an image"] == len(gone)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"images": "/nowhere"}, "images=/nowhere: no such folder"),
        ({"questions": []}, "questions=[]: must be a path, or a list of paths"),
        ({"annotations": None}, "annotations: the split train needs them"),
        ({"annotations": "VAL"}, "answer none of these questions"),
        ({"least": 10_000}, "least=10000: no answer is given that often"),
        ({"holdout": 10_000}, "holdout=10000: there are only"),
        ({"answers": "/nowhere.json"}, "answers=/nowhere.json: cannot be read"),
        ({"questions": "OTHER"}, "split: the name of questions="),
        ({"images": "VAL"}, "has none of the"),
    ],
)
def test_where_nothing_can_go_on_the_exit_code_is_2(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], keys: dict[str, Any], message: str
) -> None:
    config = configure(drawn, tmp_path)
    other = tmp_path / "other.json"
    other.write_text(Path(config.questions).read_text())
    places = {
        ("annotations", "VAL"): str(drawn / "vqav2" / "v2_mscoco_val2014_annotations.json"),
        ("images", "VAL"): str(drawn / "vqav2" / "val2014"),
        ("questions", "OTHER"): str(other),
    }
    given = {"images": config.images, "questions": config.questions, "annotations": config.annotations, "least": 2}
    given |= {key: places.get((key, str(value)), value) for key, value in keys.items()}
    words = [f"{key}={'null' if value is None else value}" for key, value in given.items()]
    assert main(["prep", "vqav2", f"out={tmp_path}", "workers=1", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("content", ['{"questions": 1}', '{"questions": [{"a": 1}]}', "[]", "{", '{"annotations": []}'])
def test_files_of_another_layout_are_refused(drawn: Path, tmp_path: Path, content: str) -> None:
    path = tmp_path / "train.json"
    path.write_text(content)
    with pytest.raises((DataError, ConfigError), match=r"train\.json"):
        run(configure(drawn, tmp_path, questions=str(path)))


def test_the_same_command_resumes_and_other_annotations_are_refused(drawn: Path, tmp_path: Path) -> None:
    run(configure(drawn, tmp_path))
    before = (tmp_path / "vqav2_train" / "index.npy").read_bytes()
    run(configure(drawn, tmp_path))
    assert (tmp_path / "vqav2_train" / "index.npy").read_bytes() == before
    with pytest.raises(DataError, match="least was 2 and is 3"):
        run(configure(drawn, tmp_path, least=3))
