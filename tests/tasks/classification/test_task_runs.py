"""Runs of the tasks: what a run of pretraining can, one of them can too."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from bridgetower_train.cli import main
from bridgetower_train.data.shards import BadRecordError, open_corpus
from bridgetower_train.evaluation.base import open_model
from bridgetower_train.model.vision import normalize
from bridgetower_train.tasks.classification.reader import (
    AnswerReader,
    LabelReader,
    ListedLabelReader,
    PremiseReader,
    SeveralLabelsReader,
    TwoImageReader,
)
from bridgetower_train.weights.checkpoint import step_folders, step_of
from tests.tasks.classification.corpora import ANSWERS, NAMES, TASKS, Made, write
from tests.training.runs import final_weights, metric_lines

HEADS = {"vqav2": "vqa_classifier", "snli_ve": "snli_classifier", "nlvr2": "nlvr2_classifier", "classes": "classifier"}


@pytest.mark.parametrize("task", TASKS)
def test_a_run_validates_keeps_the_names_of_labels_and_resumes_bit_for_bit(task, run_of, options, tmp_path, capsys):
    run = run_of(task)
    *lines, validated = metric_lines(run)
    assert {"loss", "acc"} <= lines[0].keys()
    assert {"val_loss", "val_acc"} <= validated.keys()
    file, names = TASKS[task][1:]
    assert json.loads((run / file).read_text()) == names
    assert f"labels: {len(names)}" in (run / "config.yaml").read_text()
    assert main(["train", *options(task), "steps=3", "validation.every=0", f"run_dir={tmp_path}"]) == 0
    capsys.readouterr()
    assert main(["train", *options(task), f"run_dir={tmp_path}"]) == 0
    assert "resume    from step 3" in capsys.readouterr().out
    assert final_weights(tmp_path) == final_weights(run)


def test_a_killed_run_equals_an_undisturbed_one(options, start, tasks_root, tmp_path):
    """Of NLVR2, whose head draws a dropout of its own."""
    keys = [*options("nlvr2"), "steps=60", "validation.every=30", "checkpoint.every=4", "data.workers=1"]
    job = start(tmp_path / "killed", *keys, root=tasks_root)
    assert job.wait_for_checkpoint(8), job.wait()
    job.kill()
    assert 8 <= step_of(step_folders(tmp_path / "killed")[-1]) < 60
    for name in ("killed", "whole"):
        assert main(["train", *keys, f"run_dir={tmp_path / name}"]) == 0
    assert metric_lines(tmp_path / "killed") == metric_lines(tmp_path / "whole")
    assert final_weights(tmp_path / "killed") == final_weights(tmp_path / "whole")


def test_micro_batches_give_the_same_step(run_of, options, tmp_path):
    """Of the VQA task, whose loss divides by the questions that have a target."""
    keys = ["model.dropout=0", "steps=2", "validation.every=0"]
    for name, more in (("whole", []), ("parts", ["micro_batch=2", "engine.activation_checkpointing=true"])):
        assert main(["train", *options("vqav2"), *keys, *more, f"run_dir={tmp_path / name}"]) == 0
    for ours, theirs in zip(metric_lines(tmp_path / "whole"), metric_lines(tmp_path / "parts"), strict=True):
        assert theirs == {name: pytest.approx(value, rel=1e-4, abs=1e-5) for name, value in ours.items()}


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("task", "ranks", "more"),
    [
        ("vqav2", 2, ["engine=zero2"]),
        ("vqav2", 2, ["engine=native"]),
        ("nlvr2", 2, ["engine=zero3"]),
        ("snli_ve", 2, ["engine=zero1"]),
        ("classes", 1, ["engine=zero0"]),
    ],
)
def test_ranks_and_engines_agree(task, ranks, more, options, train, tasks_root, tmp_path):
    if "engine=native" not in more:
        pytest.importorskip("deepspeed")
    keys = [*options(task), "model.dropout=0", "steps=3", "validation.every=3"]
    assert main(["train", *keys, f"run_dir={tmp_path / 'one'}"]) == 0
    train(tmp_path / "two", *keys, *more, ranks=ranks, root=tasks_root)
    if task == "nlvr2":  # whose head has a dropout of its own, drawn by the place in the global batch
        assert {"loss", "acc"} <= metric_lines(tmp_path / "two")[0].keys()
        return
    for ours, theirs in zip(metric_lines(tmp_path / "one"), metric_lines(tmp_path / "two"), strict=True):
        assert theirs == {name: pytest.approx(value, rel=2e-4, abs=2e-4) for name, value in ours.items()}


@pytest.mark.parametrize("task", ["vqav2", "nlvr2"])
def test_a_run_in_bf16(task, options, tmp_path):
    keys = ["device.precision=bf16", "steps=2", "validation.every=0"]
    assert main(["train", *options(task), *keys, f"run_dir={tmp_path}"]) == 0
    assert all(line["skipped"] == 0 for line in metric_lines(tmp_path))


def test_it_is_planned_shown_and_reported(run_of, options, tmp_path, capsys):
    run = shutil.copytree(run_of("nlvr2"), tmp_path / "run")
    assert main(["view", *options("nlvr2"), f"run_dir={tmp_path}", "n=4", f"out={tmp_path / 'view.html'}"]) == 0
    page = (tmp_path / "view.html").read_text()
    assert page.count("<img") == 8
    assert "true" in page
    assert main(["eval", "nlvr2", f"run_dir={run}"]) == 0
    assert main(["report", f"run_dir={run}"]) == 0
    page = (run / "report.html").read_text()
    assert "consistency" in page
    assert "the second is" in page
    capsys.readouterr()
    plan = ["hardware=gaudi2x8", "data.lanes=8", f"out={tmp_path / 'plan.html'}", "model.vocab_size=300"]
    assert main(["plan", *options("nlvr2"), *plan]) == 0
    assert "GiB per card" in capsys.readouterr().out


def test_the_experiments_train_on_small_corpora(tasks_root, tmp_path):
    small = [
        "model=tiny", "model.image_size=64", "init.checkpoint=null", f"tokenizer={tasks_root}/tokenizer.json",
        f"data.root={tasks_root}", "device=cpu", "global_batch=16", "micro_batch=null", "data.lanes=4", "data.workers=0",
        "model.vision_layers=2", "model.text_layers=2", "validation.every=0", "checkpoint.best=null", "tensorboard=false",
    ]  # fmt: skip
    for name in ("vqav2", "nlvr2"):
        keys = [f"experiment=finetune_{name}", *small, f"data.corpora={{{name}_train: 1}}", "steps=1"]
        assert main(["train", *keys, f"run_dir={tmp_path / name}"]) == 0


# --- export


@pytest.mark.parametrize("task", ["vqav2", "nlvr2"])
def test_trunk_and_head_are_exported_apart_and_come_back(task, run_of, tasks_root, options, tmp_path, capsys):
    run, out = shutil.copytree(run_of(task), tmp_path / "run"), tmp_path / "exported"
    assert main(["eval", task, f"run_dir={run}"]) == 0
    assert main(["export", f"run_dir={run}", f"out={out}"]) == 0
    assert "loads as BridgeTowerModel" in capsys.readouterr().out
    trunk, head = load_file(out / "model.safetensors"), load_file(out / "head.safetensors")
    assert len(trunk["bridgetower.token_type_embeddings.weight"]) == 2
    extra = {"nlvr2_token_type"} if task == "nlvr2" else set()
    assert (
        set(head)
        == {f"{HEADS[task]}.{part}" for part in ("0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias")}
        | extra
    )
    card = (out / "README.md").read_text()
    assert "head.safetensors" in card
    assert main(["eval", task, f"run_dir={out}", f"root={tasks_root}", f"corpus={task}_val"]) == 0
    ours, theirs = (json.loads((folder / "eval.json").read_text())["evaluations"] for folder in (run, out))
    assert [e["figures"] for e in ours.values()] == [e["figures"] for e in theirs.values()]
    start = [
        f"init.checkpoint={out}",
        "optim.lr=0",
        "optim.lr_fusion=0",
        "optim.lr_heads=0",
        "steps=1",
        "validation.every=0",
    ]
    assert main(["train", *options(task), *start, f"run_dir={tmp_path / 'again'}"]) == 0
    assert final_weights(tmp_path / "again") == final_weights(run)


@pytest.mark.parametrize("task", ["vqav2", "nlvr2"])
def test_the_exported_trunk_and_the_lines_of_the_card_give_our_logits(task, run_of, tmp_path, monkeypatch):
    from transformers import BridgeTowerModel

    out = tmp_path / "exported"
    assert main(["export", f"run_dir={run_of(task)}", f"out={out}"]) == 0
    trunk, report = BridgeTowerModel.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    ours, _ = open_model(str(out), device="cpu")
    pixels = torch.randint(0, 256, (2 if task == "nlvr2" else 1, 3, 32, 32), dtype=torch.uint8)
    ids, mask = ours.tokenizer.encode(["what colour is it?"], 24)
    shown = [
        {"input_ids": ids, "attention_mask": mask.long(), "pixel_values": normalize(image[None], torch.float32)}
        for image in pixels
    ]
    monkeypatch.chdir(out)
    code = (out / "README.md").read_text().split("```python")[2].partition("```")[0]
    with torch.no_grad():
        expected = ours.task.eval().logits(pixels, ids, mask)
        names = {"model": trunk.eval(), "of_first": shown[0], "of_second": shown[-1]}
        if task == "vqav2":
            names["outputs"] = trunk(**shown[0])
        exec(code, names)
    torch.testing.assert_close(names["logits"], expected, atol=1e-4, rtol=1e-4)


# --- predict


def test_a_question_is_answered_with_the_five_likeliest(run_of, tasks_root, tmp_path, capsys):
    image = tmp_path / "image.jpg"
    image.write_bytes(open_corpus(str(tasks_root), "vqav2_val").read(0).image)
    out = f"out={tmp_path / 'page.html'}"
    question = "texts=['what colour is it?']"
    assert main(["predict", f"run_dir={run_of('vqav2')}", f"image={image}", question, out]) == 0
    said = capsys.readouterr().out.splitlines()[1]
    assert sorted(part.split()[0] for part in said.split(",")) == sorted(ANSWERS)
    page = (tmp_path / "page.html").read_text()
    assert "Likeliest" in page
    assert page.count('alt="attention of') == 4
    assert main(["predict", f"run_dir={run_of('classes')}", f"image={image}", out]) == 0
    assert "red" in capsys.readouterr().out


def test_a_model_of_two_images_asks_for_both(run_of, tasks_root, tmp_path, capsys):
    image = tmp_path / "image.jpg"
    image.write_bytes(open_corpus(str(tasks_root), "nlvr2_val").read(0).image)
    keys = [
        f"run_dir={run_of('nlvr2')}",
        f"image={image}",
        "texts=['the second is red']",
        f"out={tmp_path / 'page.html'}",
    ]
    assert main(["predict", *keys]) == 2
    assert "give the other one in second=" in capsys.readouterr().err
    assert main(["predict", *keys, f"second={image}"]) == 0
    assert (tmp_path / "page.html").read_text().count('alt="attention of') == 8
    two = [f"run_dir={run_of('vqav2')}", *keys[1:], f"second={image}"]
    assert main(["predict", *two]) == 2
    assert "leave second out" in capsys.readouterr().err


# --- what cannot be


def refused(capsys, *overrides: str, code: int = 2) -> str:
    assert main(["train", *overrides]) == code
    return capsys.readouterr().err


def test_a_test_split_does_not_train(options, tmp_path, capsys):
    for number, split in enumerate(("test", "test1", "test-dev", "test2015")):
        write(tmp_path / str(number), "vqav2_train", "vqav2", 8, split)
        said = refused(capsys, *options("vqav2"), f"data.root={tmp_path / str(number)}", f"run_dir={tmp_path / 'run'}")
        assert "vqav2_train is the test split" in said
        assert "bridgetower eval vqav2" in said


@pytest.mark.parametrize(
    ("task", "corpora", "more", "said"),
    [
        ("vqav2", "snli_ve", [], "was prepared for task=snli_ve, not for task=vqav2"),
        (
            "vqav2",
            None,
            ["classifier.labels=7"],
            "classifier.labels=7: answers.json of the corpora names 5; leave it out",
        ),
        ("vqav2", None, ["classifier.labels=0"], "classifier.labels=0: must be at least 1"),
        ("vqa", "vqav2", [], "task=vqa: must be one of"),
    ],
)
def test_what_does_not_fit_is_named(task, corpora, more, said, options, tmp_path, capsys):
    assert said in refused(capsys, *options(task, corpora), *more, f"run_dir={tmp_path}")


def test_corpora_without_or_with_other_names_are_refused(options, tmp_path, capsys):
    keys = [
        *options("classes"),
        f"data.root={tmp_path}",
        "data.validation=null",
        "validation.every=0",
        f"run_dir={tmp_path}/run",
    ]
    write(tmp_path, "one", "classes")
    write(tmp_path, "two", "classes")
    (tmp_path / "two" / "classes.json").write_text('["a", "b"]')
    assert "one and two have different labels" in refused(capsys, *keys, "data.corpora={one: 1, two: 1}")
    (tmp_path / "two" / "classes.json").write_text('["a", "a"]')
    assert "have a name twice" in refused(capsys, *keys, "data.corpora={two: 1}", code=1)
    (tmp_path / "two" / "classes.json").unlink()
    assert "none of two has classes.json" in refused(capsys, *keys, "data.corpora={two: 1}")


def test_another_vocabulary_does_not_resume(run_of, options, tasks_root, tmp_path, capsys):
    run = shutil.copytree(run_of("classes"), tmp_path / "run")
    root = shutil.copytree(tasks_root, tmp_path / "root")
    (root / "classes_train" / "classes.json").write_text(json.dumps(NAMES[::-1]))
    said = refused(capsys, *options("classes"), f"data.root={root}", f"run_dir={run}", code=1)
    assert "labels was" in said


READERS = {
    "vqav2": AnswerReader(ANSWERS), "snli_ve": LabelReader(["a", "b", "c"]), "premise": PremiseReader(["a", "b", "c"]),
    "nlvr2": TwoImageReader(["false", "true"]), "classes": ListedLabelReader(NAMES), "several": SeveralLabelsReader(NAMES),
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "made", "reason"),
    [
        ("vqav2", Made(["red"], ["?"], {"ids": [1]}), "has no answers for each text"),
        ("vqav2", Made(["red"], ["?"], {"ids": [1], "answers": [[]]}), "has no answers for each question"),
        ("vqav2", Made(["red"], ["?"], {"ids": [1], "answers": [[3]]}), "has no answers for each question"),
        ("snli_ve", Made(["red"], ["?"], {"ids": [1]}), "has no labels for each text"),
        ("snli_ve", Made(["red"], ["?"], {"ids": [1], "labels": [3]}), "label 3 is none of 0 to 2"),
        ("snli_ve", Made(["red"], ["?"], {"ids": [1], "labels": [True]}), "label True is none of 0 to 2"),
        ("snli_ve", Made(["red"], ["?"], {"ids": [1], "labels": ["1"]}), "label '1' is none of 0 to 2"),
        ("premise", Made(["red"], ["?"], {"ids": [1], "labels": [1]}), "has no premises for each text"),
        ("nlvr2", Made(["red"], ["?"], {"ids": [1], "labels": [1]}), "1 image instead of 2"),
        ("nlvr2", Made(["red", "blue"], ["?"], {"ids": [1], "labels": [-1]}), "label -1 is none of 0 to 1"),
        ("classes", Made(["red"], ["?"], {"ids": [1], "labels": [[0, 1]]}), "has not one label for each text"),
        ("several", Made(["red"], ["?"], {"ids": [1], "labels": [1]}), "has no labels for each text"),
        ("several", Made(["red"], ["?"], {"ids": [1], "labels": [[9]]}), "label 9 is none of 0 to 2"),
    ],
)  # fmt: skip
def test_a_record_that_cannot_be_used_says_why(kind, made, reason, tmp_path):
    task = {"premise": "snli_ve", "several": "classes"}.get(kind, kind)
    write(tmp_path, "bad", task, 1, make=lambda number: made)
    with pytest.raises(BadRecordError) as caught:
        READERS[kind].view(open_corpus(str(tmp_path), "bad").read(0), 0)
    assert caught.value.reason == reason


def test_a_pair_of_texts_has_robertas_separator(tasks_root):
    record = open_corpus(str(tasks_root), "snli_ve_val").read(0)
    assert READERS["premise"].view(record, 0).text == "a red thing</s></s>it is red"
    assert READERS["snli_ve"].view(record, 0).text == "it is red"


def test_the_pair_is_encoded_as_transformers_does(tasks_root):
    from tokenizers import Tokenizer

    from bridgetower_train.data.text import CaptionTokenizer

    path = str(tasks_root / "tokenizer.json")
    expected = Tokenizer.from_file(path).encode("a red thing", "it is red").ids
    ids, mask = CaptionTokenizer.load(path).encode(["a red thing</s></s>it is red"], 24)
    assert ids[0][mask[0]].tolist() == expected


def test_soft_targets_are_those_of_the_definition(tasks_root):
    from bridgetower_train.data.reader import Samples

    record = open_corpus(str(tasks_root), "vqav2_val").read(0)
    samples = Samples([record, record], [0, 1], None, None, None, None)  # type: ignore[arg-type]
    assert READERS["vqav2"].labels(samples)["targets"].tolist() == [[0, 0, 1, 0, 0], [1, 0, 0, 0, 0]]
