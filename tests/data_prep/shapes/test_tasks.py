"""Tasks about drawn images: what they state is true of the objects, and texts alone do not tell it."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from bridgetower_train.data.answers import accuracy, normalise, soft_targets
from bridgetower_train.data.shards import open_corpus
from bridgetower_train.errors import DataError
from data_prep.shapes.corpus import TASKS, Drawn, ShapesConfig, run
from data_prep.shapes.scene import ALL, FEW

RECORDS, FURTHER = 150, 50


@pytest.fixture(scope="module", params=["all", "simple"])
def config(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> ShapesConfig:
    out, simple = tmp_path_factory.mktemp("shapes"), request.param == "simple"
    config = ShapesConfig(out=str(out), records=RECORDS, heldout=FURTHER, size=32, tasks=True, simple=simple, workers=1)
    run(config)
    return config


@pytest.fixture(scope="module")
def objects(config: ShapesConfig) -> dict[int, list[dict[str, Any]]]:
    """Image -> what it shows."""
    drawn = Drawn("shapes", RECORDS + FURTHER, 0, 64, 1, palette=config.palette)
    return {row.meta["image_id"]: row.meta["objects"] for row in drawn.rows(0, RECORDS + FURTHER)}


def questions(config: ShapesConfig, split: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    folder = Path(config.out, TASKS, "vqav2")
    asked = json.loads((folder / f"v2_OpenEnded_mscoco_{split}2014_questions.json").read_text())["questions"]
    given = json.loads((folder / f"v2_mscoco_{split}2014_annotations.json").read_text())["annotations"]
    return list(zip(asked, given, strict=True))


def lines(config: ShapesConfig, file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(config.out, TASKS, file).read_text().splitlines()]


def truth(text: str, shown: list[dict[str, Any]]) -> str:
    """The answer to a question, by the boxes of the objects."""
    words = text.rstrip("?").split()
    if text.startswith("how many"):
        return str(sum(f"{item['shape']}{'es' if item['shape'] == 'cross' else 's'}" == words[2] for item in shown))
    if text.startswith("what colour"):
        ordered = sorted(shown, key=lambda item: item["box"][0])
        named = {**{item["shape"]: item for item in shown}, "left": ordered[0], "right": ordered[-1]}
        return str(named[words[4]]["colour"])
    large = max(shown, key=lambda item: item["box"][2] - item["box"][0])
    return "yes" if large["shape"] == words[2] else "no"


@pytest.mark.parametrize("split", ["train", "val"])
def test_most_answers_are_true_and_a_text_alone_does_not_tell(
    config: ShapesConfig, objects: dict[int, list[dict[str, Any]]], split: str
) -> None:
    found = questions(config, split)
    assert len({question["question_id"] for question, _ in found}) == len(found) > FURTHER
    kinds, by_text = Counter[str](), defaultdict[str, list[list[str]]](list)
    for question, annotation in found:
        assert question["question_id"] == annotation["question_id"]
        true = truth(question["question"], objects[question["image_id"]])
        answers = [normalise(given["answer"]) for given in annotation["answers"]]
        assert annotation["multiple_choice_answer"] == true == Counter(answers).most_common(1)[0][0]
        assert soft_targets(answers)[true] == 1
        kinds[annotation["answer_type"]] += 1
        by_text[question["question"]].append(answers)
    assert {*kinds} == {"yes/no", "number", "other"}
    blind = []
    for of_text in by_text.values():
        best = max({a for answers in of_text for a in answers}, key=lambda a: sum(accuracy(a, b) for b in of_text))
        blind += [accuracy(best, answers) for answers in of_text]
    assert sum(blind) / len(blind) < 0.6  # even where the most frequent answer to each text is known


@pytest.mark.parametrize("split", ["train", "dev"])
def test_labels_of_hypotheses_are_true(
    config: ShapesConfig, objects: dict[int, list[dict[str, Any]]], split: str
) -> None:
    labels = defaultdict[str, Counter[str]](Counter)
    for line in lines(config, f"snli_ve/snli_ve_{split}.jsonl"):
        _, shape, _, colour = line["sentence2"].split()
        colours = [item["colour"] for item in objects[int(line["Flickr30K_ID"])] if item["shape"] == shape]
        true = "neutral" if not colours else "entailment" if colours == [colour] else "contradiction"
        assert line["gold_label"] in (true, "-")
        labels[line["sentence2"]][true] += 1
    assert all(len({*of_text.values()}) == 1 for of_text in labels.values())


def test_statements_are_true(config: ShapesConfig, objects: dict[int, list[dict[str, Any]]]) -> None:
    for line in lines(config, "nlvr2/train.json"):
        _, number, pair, _ = map(str, line["identifier"].split("-"))
        first = 4 * int(number) + 2 * int(pair)
        word = next(word for word in line["sentence"].split() if word in (*ALL.shapes, *ALL.colours))
        sides = [any(word in (item["shape"], item["colour"]) for item in objects[first + side]) for side in (0, 1)]
        which = line["sentence"].split()[1]
        true = all(sides) if which == "images" else sides[which == "right"]
        assert line["label"] == str(true)


def test_simple_images_show_few_kinds_of_objects() -> None:
    shown = [item for row in Drawn("shapes", 200, 0, 64, 1, palette=FEW).rows(0, 200) for item in row.meta["objects"]]
    found = {(item["colour"], item["shape"], item["texture"]) for item in shown}
    assert found == set(FEW.triples[False])
    assert len(found) == 12


def test_files_are_written_once(config: ShapesConfig) -> None:
    folder = Path(config.out, TASKS)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    run(config)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    (folder / "tasks.json").write_text("{}")
    with pytest.raises(DataError, match="has tasks about other images"):
        run(config)


def test_images_are_those_of_the_corpus(config: ShapesConfig) -> None:
    corpus = open_corpus(config.out, "shapes")
    folder = Path(config.out, TASKS, "vqav2")
    stored = (folder / "train2014" / "COCO_train2014_000000000007.jpg").read_bytes()
    assert stored == bytes(corpus.read(7).image)
    assert len(list((folder / "val2014").iterdir())) == FURTHER


def test_the_tokenizer_knows_the_words(config: ShapesConfig) -> None:
    tokenizer = Tokenizer.from_file(str(Path(config.out, "shapes", "tokenizer.json")))
    assert len(tokenizer.encode("what colour is the left object?").tokens) <= 12
