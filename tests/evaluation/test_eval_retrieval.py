"""`bridgetower eval retrieval` on a real run."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from bridgetower_train.cli import main
from bridgetower_train.data.shards import open_corpus
from bridgetower_train.distributed import Ranks
from bridgetower_train.evaluation.base import open_model
from bridgetower_train.evaluation.eval_set import EvalSet
from bridgetower_train.evaluation.rerank import score_pairs
from bridgetower_train.evaluation.retrieval import evaluate
from bridgetower_train.model.bridgetower import Pairs
from bridgetower_train.tasks.base import evaluating
from bridgetower_train.tasks.pretraining.predictor import Predictor
from bridgetower_train.weights.saved import read_config
from tests.conftest import write_corpus
from tests.tiny import TINY
from tests.training.runs import ROOT

ALONE = Ranks(0, 1, None)


def evaluations(run_dir):
    return json.loads((run_dir / "eval.json").read_text())["evaluations"]


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """A root with `uneven`: 30 images of 1 to 5 captions. Do not write to it."""
    return write_corpus(tmp_path_factory.mktemp("uneven"), "uneven", 30, 20)


def test_blocks_score_as_one_pair_after_the_other_does(trained_run, uneven):
    predictor = Predictor(*open_model(str(trained_run), device="cpu")[0])
    images = EvalSet(open_corpus(str(uneven), "uneven"), predictor.task.config)
    images.leave_out(dict.fromkeys(range(12, 30), "enough"))
    assert [len(c) for c in images.captions[:6]] == [1, 2, 3, 4, 5, 1]
    count, texts = len(images), images.texts
    pairs = np.random.default_rng(0).permutation(count * len(texts))[:200]
    pairs.sort()
    found = score_pairs(predictor, images, pairs, ALONE, batch=4)

    model, pixels = predictor.model, images.read(slice(0, count))[0]
    one = Pairs(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), 1)
    with evaluating(predictor.task, predictor.device):
        encoded = [model.encode_image(p[None]) for p in pixels]
        states = [model.encode_text(*predictor.encode([text])) for text in texts]
        each = [divmod(int(pair), len(texts)) for pair in pairs]
        plain = [float(model.head("itm_score")(model.fuse(encoded[i], states[t], one).pooled)[0, 1]) for i, t in each]
    assert found == pytest.approx(plain, abs=1e-5)
    assert np.ptp(plain) > 1e-3


def test_folds_are_tests_of_their_own(trained_run, uneven):
    predictor = Predictor(*open_model(str(trained_run), device="cpu")[0])
    images = EvalSet(open_corpus(str(uneven), "uneven"), predictor.task.config)
    figures = evaluate(predictor, images, 4, 12, ALONE, batch=8)
    assert list(figures) == [
        f"{method}{group}"
        for method in ("ITC", "ITC, best 4 re-ranked by ITM")
        for group in ("", ", mean of 2 folds of 12")
    ]
    folds = []
    for first in (0, 12):
        part = EvalSet(open_corpus(str(uneven), "uneven"), predictor.task.config)
        part.leave_out({i: "of another fold" for i in range(30) if not first <= i < first + 12})
        folds.append(evaluate(predictor, part, 4, None, ALONE, batch=8))
    for method in ("ITC", "ITC, best 4 re-ranked by ITM"):
        mean = {name: (folds[0][method][name] + folds[1][method][name]) / 2 for name in figures["ITC"]}
        assert figures[f"{method}, mean of 2 folds of 12"] == pytest.approx(mean)
    assert figures["ITC"] != figures["ITC, mean of 2 folds of 12"]


def test_protocol_and_figures_are_printed_and_kept(run_dir, uneven, capsys):
    keys = [
        "eval",
        "retrieval",
        f"run_dir={run_dir}",
        f"root={uneven}",
        "corpus=uneven",
        "rerank=5",
        "fold=10",
        "batch=8",
    ]
    assert main([*keys, "captions=3"]) == 0
    printed = capsys.readouterr().out
    found = evaluations(run_dir)["retrieval on uneven"]
    assert found["protocol"]["model"].startswith("zero-shot: trained on shapes")
    assert found["protocol"]["captions"] == "72; the first 3 at most: 3 of 18, 2 of 6, 1 of 6 images"
    assert "best 5 re-ranked by ITM, mean of 3 folds of 10" in printed
    assert found["protocol"]["model"] in printed
    assert main(["eval", f"run_dir={run_dir}", "samples=8"]) == 0
    assert main(["eval", "retrieval", f"run_dir={run_dir}", "corpus=shapes"]) == 0
    assert set(evaluations(run_dir)) == {"retrieval on uneven", "retrieval on shapes", "overview on shapes_heldout"}
    assert found["protocol"]["re-ranking"] == "the best 5 of each query, by matching; rule ms"
    assert evaluations(run_dir)["retrieval on shapes"]["protocol"]["re-ranking"] == "none"
    assert evaluations(run_dir)["retrieval on shapes"]["protocol"]["model"].startswith("trained on this data set")
    assert len(evaluations(run_dir)["overview on shapes_heldout"]["examples"]) == 12


def test_any_number_of_ranks_gives_the_same(run_dir, uneven):
    found = []
    for ranks in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
        command = [
            sys.executable, *launcher, "-m", "bridgetower_train", "eval", "retrieval", f"run_dir={run_dir}", "device=cpu",
            f"root={uneven}", "corpus=uneven", "rerank=4", "fold=10", "batch=4",
        ]  # fmt: skip
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        result = subprocess.run(command, capture_output=True, text=True, env=env, timeout=400)
        assert result.returncode == 0, result.stderr
        found.append(evaluations(run_dir))
        assert result.stdout.count("RSUM") == 1
        (run_dir / "eval.json").unlink()
    assert found[0] == found[1]


def test_images_that_do_not_decode_are_named(run_dir, uneven, tmp_path, capsys):
    copy = shutil.copytree(uneven, tmp_path / "copy")
    index = np.load(copy / "uneven" / "index.npy")
    with (copy / "uneven" / "000000.tar").open("r+b") as file:
        file.seek(int(index[3]["jpg_offset"]) + 100)
        file.write(b"damaged")
    assert main(["eval", "retrieval", f"run_dir={run_dir}", f"root={copy}", "corpus=uneven"]) == 0
    assert "000003 (changed since it was indexed)" in capsys.readouterr().out
    assert evaluations(run_dir)["retrieval on uneven"]["protocol"]["images"] == 29


def test_what_cannot_be_evaluated_is_refused(run_dir, shapes_root, tmp_path, make_corpus, capsys):
    one = make_corpus(tmp_path / "one", "one", 1)
    assert main(["eval", "retrieval", f"run_dir={run_dir}", f"root={one}", "corpus=one"]) == 1
    assert "one: has fewer than two usable images" in capsys.readouterr().err
    without = tmp_path / "without"
    keys = ["train", *TINY, f"data.root={shapes_root}", f"run_dir={without}", "steps=1", "objective.itm=0"]
    assert main(keys) == 0
    capsys.readouterr()
    assert main(["eval", "retrieval", f"run_dir={without}", "rerank=4"]) == 2
    assert "rerank=4: needs the head itm_score" in capsys.readouterr().err
    assert not (without / "eval.json").exists()


def test_long_captions_are_cut_and_counted(run_dir, uneven, capsys):
    config = run_dir / "config.yaml"
    config.write_text(config.read_text().replace("max_text_len: 24", "max_text_len: 8"))
    assert main(["eval", "retrieval", f"run_dir={run_dir}", f"root={uneven}", "corpus=uneven"]) == 0
    assert evaluations(run_dir)["retrieval on uneven"]["protocol"]["captions cut"] == 90


def test_a_test_split_steers_no_run(shapes_root, tmp_path, capsys):
    copy = shutil.copytree(shapes_root, tmp_path / "copy")
    path = copy / "shapes_heldout" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["extra"]["source"] = {"splits": "test"}
    path.write_text(json.dumps(manifest))
    keys = ["train", *TINY, f"data.root={copy}", f"run_dir={tmp_path / 'run'}", "steps=1"]
    assert main([*keys, "validation.every=1", "validation.samples=8"]) == 2
    assert "data.validation: shapes_heldout is the test split" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main([*keys, "data.corpora={shapes_heldout: 1.0, shapes: 0}"]) == 2
    assert "data.corpora: shapes_heldout is the test split" in capsys.readouterr().err
    assert main(keys) == 0


def test_fine_tuning_is_told_from_zero_shot(trained_run, uneven, shapes_root, tmp_path):
    """The shipped experiment, at the size of a test, from the run of another corpus."""
    run_dir, root = tmp_path / "tuned", shutil.copytree(uneven, tmp_path / "root")
    smaller = [key for key in TINY if not key.startswith(("optim", "device"))]
    keys = [
        "train", "experiment=finetune_flickr30k", *smaller, f"data.root={root}", "data.corpora={flickr30k_train: 0, uneven: 1}",
        f"tokenizer={read_config(trained_run).tokenizer}", "model.vocab_size=null", "micro_batch=null",
        "objective.contrast=global", "data.workers=0", "device.name=cpu",
        "validation.every=0", "checkpoint.best=null", "steps=1", f"run_dir={run_dir}",
        f"init.checkpoint={trained_run}", "objective.itc_dim=512",
    ]  # fmt: skip
    assert main(keys) == 0
    assert main(["eval", "retrieval", f"run_dir={run_dir}", "corpus=uneven"]) == 0
    model = evaluations(run_dir)["retrieval on uneven"]["protocol"]["model"]
    assert model == "fine-tuned: trained on uneven; before that on shapes"
    assert main(["eval", "retrieval", f"run_dir={run_dir}", "corpus=shapes", f"root={shapes_root}"]) == 0
    model = evaluations(run_dir)["retrieval on shapes"]["protocol"]["model"]
    assert model == "seen in pretraining: trained on uneven; before that on shapes"


def test_several_corpora_give_one_table(run_dir, capsys):
    keys = ["eval", "retrieval", f"run_dir={run_dir}", "captions=1"]
    assert main([*keys, "corpora=[shapes_heldout,shapes]"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("image to text") == 1
    assert [line.split("   ")[0].strip() for line in printed.splitlines() if ": ITC" in line] == [
        "shapes_heldout: ITC", "shapes: ITC",
    ]  # fmt: skip
    assert set(evaluations(run_dir)) == {"retrieval on shapes_heldout", "retrieval on shapes"}
    assert main([*keys, "corpora=[shapes]", "corpus=shapes"]) == 2
    assert "exclude each other" in capsys.readouterr().err
