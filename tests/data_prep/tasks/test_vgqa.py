"""Visual Genome's questions with the vocabulary of VQAv2."""

import json
from pathlib import Path

import pytest
from PIL import Image

from bridgetower_train.data.answers import soft_targets
from bridgetower_train.errors import ConfigError, DataError
from data_prep.tasks.vgqa import VgqaConfig, run
from tests.data_prep.tasks.reading import names, records


def test_questions_with_one_answer_in_the_vocabulary_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def qa(number: int, image: int, question: str, answer: str) -> dict[str, object]:
        return {"qa_id": number, "image_id": image, "question": question, "answer": answer}

    content = [
        {"id": 1, "qas": [qa(10, 1, "What?", "A dog."), qa(11, 1, "Who?", "Two."), qa(12, 1, "Who?", "three")]},
        {"id": 2, "qas": [qa(20, 2, "What?", "heron"), qa(21, 2, "Where?", "dog"), qa(22, 2, "Where?", "Dog")]},
        {"id": 3, "qas": [qa(30, 3, "What?", "dog"), {"qa_id": 31}]},
        {"id": 4, "qas": []},
        {"id": 5},
    ]
    (tmp_path / "question_answers.json").write_text(json.dumps(content))
    (tmp_path / "answers.json").write_text('["dog", "2", "3"]')
    (tmp_path / "image_data.json").write_text('[{"image_id": 1, "coco_id": 77}, {"image_id": 2, "coco_id": null}]')
    for number in (1, 2, 9):
        path = tmp_path / "images" / f"VG_100K{'_2' * (number == 2)}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(path)
    config = VgqaConfig(
        images=str(tmp_path / "images"),
        questions=str(tmp_path / "question_answers.json"),
        answers=str(tmp_path / "answers.json"),
        image_data=str(tmp_path / "image_data.json"),
        out=str(tmp_path),
        workers=1,
    )
    run(config)
    corpus, found = records(tmp_path, "vgqa")
    assert [(r.key, r.meta["ids"], r.captions) for r in found] == [
        ("0000001", [10], ["What?"]),
        ("0000002", [21], ["Where?"]),
    ]
    assert [soft_targets(answers) for r in found for answers in r.meta["answers"]] == [{"dog": 1.0}] * 2
    assert [r.meta.get("coco_id") for r in found] == [77, None]
    assert (corpus.manifest.extra["task"], corpus.manifest.extra["split"]) == ("vqav2", "train")
    assert names(tmp_path, "vgqa", "answers.json") == ["dog", "2", "3"]
    out = capsys.readouterr().out
    for line in (
        "questions outside the vocabulary: 1 (20)",
        "questions with several answers: 2 (11, 12)",
        "questions that are asked again: 1 (22)",
        "questions without an image: 1 (30)",
        "images without a question: 1 (VG_100K/9.jpg)",
        "broken questions: 1 (no id)",
        "broken images: 1",
    ):
        assert line in out
    (tmp_path / "answers.json").write_text('["cat", "horse"]')
    with pytest.raises(ConfigError, match="has none of the answers"):
        run(config)
    (tmp_path / "question_answers.json").write_text("{}")
    with pytest.raises(DataError, match=r"question_answers\.json"):
        run(config)
