"""`eval vqav2 | snli_ve | nlvr2 | classes`: figures against their definitions, and what is kept of a corpus."""

import itertools
import json
import shutil
from typing import Any

import numpy as np
import pytest

from bridgetower_train.cli import main
from bridgetower_train.data.shards import open_corpus
from bridgetower_train.distributed import Ranks
from bridgetower_train.evaluation.base import open_model
from bridgetower_train.evaluation.choices import Choice, choose
from bridgetower_train.evaluation.labels import average_precision, label_figures, nlvr2_figures, several_figures
from bridgetower_train.evaluation.vqav2 import vqa_figures
from bridgetower_train.tasks.classification.reader import Asked
from tests.tasks.classification.corpora import ANSWERS, NAMES, Made, vqav2, write


def choice(best: int, truth: Any, identity: Any = 0, kind: str = "", logits: Any = None) -> Choice:
    return Choice(Asked(identity, truth, kind), "", 0, best, logits)


def leave_one_out(answer: str, given: list[str]) -> float:
    """The definition: the mean over the ten sets of nine people."""
    sets = itertools.combinations(given, len(given) - 1)
    return float(np.mean([min(1.0, sum(other == answer for other in people) / 3) for people in sets]))


def test_the_accuracy_of_vqav2_is_the_official_one():
    rng = np.random.default_rng(0)
    chosen, expected = [], []
    for number in range(60):
        given = rng.choice([*ANSWERS, "something else"], 10).tolist()
        best = int(rng.integers(len(ANSWERS)))
        kind = ("yes/no", "number", "other")[number % 3]
        chosen.append(choice(best, given, number, kind))
        expected.append((kind, leave_one_out(ANSWERS[best], given)))
    found = vqa_figures(chosen, ANSWERS)
    assert found["accuracy, %"] == pytest.approx(100 * np.mean([score for _, score in expected]))
    for kind in ("yes/no", "number", "other"):
        of_kind = [score for found_kind, score in expected if found_kind == kind]
        assert found[f"accuracy, {kind}, %"] == pytest.approx(100 * np.mean(of_kind))
    assert found["soft target, %"] == pytest.approx(found["accuracy, %"])  # ten people answered each
    outside = vqa_figures([choice(0, ["what else"] * 10), choice(0, ["yes"] * 10)], ANSWERS)
    assert (outside["outside the vocabulary, %"], outside["accuracy, %"]) == (50, 50)


def test_consistency_is_the_share_of_sentences_right_with_all_their_pairs():
    chosen = [
        choice(1, 1, "dev-3-0-0"), choice(0, 0, "dev-3-1-0"),  # right with both
        choice(1, 1, "dev-3-0-1"), choice(1, 0, "dev-3-1-1"),  # wrong with one
        choice(0, 0, "dev-4-2-0"),
    ]  # fmt: skip
    assert nlvr2_figures(chosen, ["false", "true"]) == {"accuracy, %": 80, "consistency, %": pytest.approx(200 / 3)}


def test_labels_are_counted_by_truth_and_by_choice():
    found = label_figures([choice(0, 0), choice(1, 0), choice(1, 1), choice(2, 1)], ["a", "b", "c"])
    assert found["accuracy, %"] == 50
    assert found["accuracy by label, %"] == {"a": 50, "b": 50}
    assert found["a, taken for, %"] == {"a": 50, "b": 50, "c": 0}


def test_average_precision_is_the_definition():
    rng = np.random.default_rng(1)
    scores, truth = rng.normal(size=40).astype(np.float32).round(1), rng.random(40) < 0.3
    precisions = []
    for score in scores[truth]:
        precisions.append(truth[scores >= score].mean())
    assert average_precision(scores, truth) == pytest.approx(np.mean(precisions))


def test_of_several_labels():
    rows = [[1.0, -1.0, 2.0], [-1.0, 1.0, -3.0]]
    chosen = [choice(2, [0, 2], logits=np.float32(rows[0])), choice(1, [0], logits=np.float32(rows[1]))]
    found = several_figures(chosen, ["a", "b", "c"])
    assert found["F1, %"] == pytest.approx(100 * 2 * 2 / (3 + 3))
    assert found["all labels right, %"] == 50
    assert found["average precision by label, %"] == {"a": 100, "c": 100}


# --- whole runs


def shown(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(name)).split()[-1]


def test_vqav2_prints_four_digits_and_writes_what_the_server_takes(run_of, tasks_root, tmp_path, capsys):
    run, out = shutil.copytree(run_of("vqav2"), tmp_path / "run"), tmp_path / "answers.json"
    assert main(["eval", "vqav2", f"run_dir={run}", f"predictions={out}", "batch=5"]) == 0
    said = capsys.readouterr().out
    given = json.loads(out.read_text())
    corpus = open_corpus(str(tasks_root), "vqav2_val")
    asked = [i for row in range(12) for i in corpus.read(row).meta["ids"]]
    assert [entry["question_id"] for entry in given] == asked
    assert {frozenset(entry) for entry in given} == {frozenset({"question_id", "answer"})}
    scores = []
    for entry in given:
        record = corpus.read(entry["question_id"] // 10)
        scores.append(leave_one_out(entry["answer"], record.meta["answers"][entry["question_id"] % 10]))
    assert shown(said, "accuracy, %") == f"{100 * np.mean(scores):.2f}"
    assert "leave one person out" in said
    figures = json.loads((run / "eval.json").read_text())["evaluations"]["VQAv2 on vqav2_val"]["figures"]
    assert figures["accuracy, %"] == pytest.approx(100 * np.mean(scores))


@pytest.mark.parametrize("task", ["snli_ve", "nlvr2", "classes"])
def test_other_tasks_write_key_label_and_prediction(task, run_of, tmp_path):
    run, out = shutil.copytree(run_of(task), tmp_path / "run"), tmp_path / "x.json"
    assert main(["eval", task, f"run_dir={run}", f"predictions={out}"]) == 0
    given = json.loads(out.read_text())
    entry = json.loads((run / "eval.json").read_text())["evaluations"]
    (kept,) = entry.values()
    right = np.mean([row["label"] == row["prediction"] for row in given])
    assert kept["figures"]["accuracy, %"] == pytest.approx(100 * right)
    assert len({row["key"] for row in given}) == len(given)
    assert kept["examples"][0]["facts"].keys() == {"truth", "prediction"}


def test_several_labels_are_evaluated(run_of, tmp_path, capsys):
    run, out = shutil.copytree(run_of("classes", corpora="several"), tmp_path / "run"), tmp_path / "x.json"
    assert main(["eval", "classes", f"run_dir={run}", f"predictions={out}"]) == 0
    assert "mean average precision, %" in capsys.readouterr().out
    assert all(isinstance(row["prediction"], list) for row in json.loads(out.read_text()))


def test_ranks_share_the_work_and_agree(run_of, tasks_root):
    """What two ranks would gather is what one finds."""
    model, _ = open_model(str(run_of("nlvr2")), device="cpu")
    corpus = open_corpus(str(tasks_root), "nlvr2_val")
    alone = choose(model, corpus, Ranks(0, 1, None), batch=4)
    shares: list[Any] = []

    class Two(Ranks):
        def gather_objects(self, value: Any) -> list[Any]:
            shares.append(value)
            return shares

    choose(model, corpus, Two(0, 2, None), batch=4)
    together = choose(model, corpus, Two(1, 2, None), batch=4)
    assert together == alone
    assert len(alone.found) == 24


def test_a_test_split_has_predictions_and_no_figures(run_of, tmp_path, capsys):
    run = shutil.copytree(run_of("vqav2"), tmp_path / "run")

    def unanswered(number: int) -> Made:
        made = vqav2(number)
        return made._replace(meta={"ids": made.meta["ids"]})

    write(tmp_path, "vqav2_test", "vqav2", 6, "test", make=unanswered)
    keys = ["eval", "vqav2", f"run_dir={run}", f"root={tmp_path}", "corpus=vqav2_test"]
    assert main(keys) == 2
    assert "give a file for what the model chooses in predictions=" in capsys.readouterr().err
    assert main([*keys, f"predictions={tmp_path / 'x.json'}"]) == 0
    assert len(json.loads((tmp_path / "x.json").read_text())) == 12
    assert "labels known    0" in capsys.readouterr().out


def test_images_that_cannot_be_decoded_still_get_an_answer(run_of, tmp_path, monkeypatch, capsys):
    from tests.tasks.classification import corpora

    run = shutil.copytree(run_of("vqav2"), tmp_path / "run")
    jpegs = {colour: corpora.square(colour) for colour in NAMES}
    jpegs["blue"] = jpegs["blue"][:-30]
    monkeypatch.setattr(corpora, "square", jpegs.__getitem__)
    monkeypatch.setattr(corpora, "SIZE", None)  # or the writer would look at them
    write(tmp_path, "bad", "vqav2", 6)
    out = tmp_path / "x.json"
    assert main(["eval", "vqav2", f"run_dir={run}", f"root={tmp_path}", "corpus=bad", f"predictions={out}"]) == 0
    assert "without image   2: 000002" in capsys.readouterr().out
    assert len(json.loads(out.read_text())) == 12


def test_ids_that_are_there_twice_are_named(run_of, tmp_path, capsys):
    write(tmp_path, "twice", "classes", 3, make=lambda number: Made(["red"], [""], {"ids": ["x"], "labels": [[0]]}))
    keys = [f"run_dir={run_of('classes')}", f"root={tmp_path}", "corpus=twice", f"out={tmp_path / 'eval.json'}"]
    assert main(["eval", "classes", *keys]) == 1
    assert "has the id 'x' more than once" in capsys.readouterr().err


def test_a_model_of_another_task_is_refused(run_of, capsys):
    assert main(["eval", "vqav2", f"run_dir={run_of('classes')}"]) == 2
    assert "was trained without vqa_classifier" in capsys.readouterr().err


def test_in_short_it_is_evaluated_on_a_sample(run_of, tmp_path, capsys):
    run = shutil.copytree(run_of("classes"), tmp_path / "run")
    assert main(["eval", f"run_dir={run}", "samples=6"]) == 0
    said = capsys.readouterr().out
    assert "classes_val: 6 images" in said
    assert "accuracy, %" in said


def test_names_that_a_run_lost_are_asked_for(run_of, tmp_path, capsys):
    run = shutil.copytree(run_of("classes"), tmp_path / "run")
    (run / "classes.json").unlink()
    assert main(["eval", "classes", f"run_dir={run}"]) == 1
    assert "it names the labels of the model: restore it" in capsys.readouterr().err
    (run / "classes.json").write_text(json.dumps([*NAMES, "more"]))
    assert main(["eval", "classes", f"run_dir={run}"]) == 1
    assert "has 4 names, and the model 3 labels" in capsys.readouterr().err
    (run / "classes.json").unlink()
    (tmp_path / "elsewhere.json").write_text(json.dumps(NAMES))
    (run / "classes.json").symlink_to(tmp_path / "elsewhere.json")
    assert main(["eval", "classes", f"run_dir={run}"]) == 1
    assert "is a link that leads outside" in capsys.readouterr().err
