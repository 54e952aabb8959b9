"""Where a run starts: what it says of it, with what rates it can learn from there, and the state of another run's optimizer."""

from pathlib import Path

import pytest
import torch
from helpers import run_ranks
from safetensors.torch import load_file

from bridgetower_train import compose
from bridgetower_train.cli import main
from bridgetower_train.config import TrainConfig
from bridgetower_train.devices import make_device
from bridgetower_train.distributed import Ranks
from bridgetower_train.doctor.start import check_random, check_start
from bridgetower_train.engines.graphs import planned_graphs
from bridgetower_train.errors import UserError
from bridgetower_train.findings import FAIL, OK
from bridgetower_train.tasks import contrast
from bridgetower_train.training.assembly import build_engine, read_data
from bridgetower_train.weights.initial import open_tokenizer
from tests.tiny import TINY
from tests.training.runs import final_weights, metric_lines, train_here
from tests.weights.conftest import clip_vision

HEADS = ("itc_", "logit_scale")
SMALLER = ["model.image_size=48", "objective.itc_dim=40"]
EVENLY = ["optim.schedule=constant", "optim.warmup=0%"]


def composed(*overrides: str) -> TrainConfig:
    return compose.compose(TrainConfig, "train", list(overrides))


# --- what is said


def test_a_run_says_where_its_weights_are_from(shapes_root, tmp_path, capsys):
    train_here(shapes_root, tmp_path, "steps=1")
    assert "init      random: all weights, by the seed" in capsys.readouterr().out
    train_here(shapes_root, tmp_path, "steps=2")
    out = capsys.readouterr().out
    assert f"init      resume: the newest intact checkpoint of {tmp_path}" in out
    assert "init      random" not in out


@pytest.mark.parametrize(
    ("overrides", "warned"),
    [
        (["optim.lr=1e-5"], []),
        (["optim.lr=9e-6"], ["optim.lr"]),
        (["optim.lr=0"], ["optim.lr"]),
        (["optim.lr=1e-7", "init.vision=a"], []),
        (["optim.lr=1e-7", "init.checkpoint=a"], []),
        (["optim.freeze=[image]"], ["optim.freeze"]),
        (["optim.freeze=[image]", "init.vision=a"], []),
        (["optim.freeze=[image]", "init.text=a"], ["optim.freeze"]),
        (["objective.itm_negatives=hard"], ["objective.itm_negatives"]),
        (["objective.itm_negatives=hard", "objective.itm=0"], []),
        (["objective.itm_negatives=hard", "objective.hard_after=20%"], []),
        (["objective.itm_negatives=hard", "init.checkpoint=a"], []),
        (["experiment=finetune_coco"], []),
        (["experiment=ms_base_4m"], []),
        (["experiment=gaudi_large_14m"], []),
        (["experiment=gaudi_large_14m", "init.checkpoint=null"], ["optim.lr"]),
        (["experiment=gaudi_large_14m_from_towers"], []),
        (["experiment=demo"], []),
    ],
    ids=" ".join,
)
def test_a_random_start_that_cannot_learn_is_warned_of(overrides, warned):
    findings = check_random(composed(*overrides))
    assert [finding.subject for finding in findings] == warned
    assert all(finding.todo for finding in findings)


def test_training_prints_the_warnings_until_it_resumes(shapes_root, tmp_path, capsys):
    slow = ["steps=1", "optim.lr=1e-7", "objective.itm_negatives=hard"]
    train_here(shapes_root, tmp_path, *slow)
    out = capsys.readouterr().out
    assert "warning   optim.lr: both towers start at random, and an update moves a weight by about 1e-07 at most" in out
    assert "it takes 200,000 in one direction to move one by the spread of random weights, 0.02; start from" in out
    assert "warning   objective.itm_negatives: " in out
    train_here(shapes_root, tmp_path, *slow[1:], "steps=2")
    assert "warning" not in capsys.readouterr().out


def test_corpora_without_the_identity_of_images_are_warned_of(shapes_root, make_corpus, tmp_path, capsys):
    make_corpus(tmp_path, "small")
    (tmp_path / "shapes").symlink_to(shapes_root / "shapes")
    keys = ["steps=1", "data.validation=null", "data.follow_links=true"]
    train_here(tmp_path, tmp_path / "both", *keys, "data.corpora={shapes: 1.0, small: 1.0}")
    assert "warning   data.corpora: the records of shapes, small name no coco_id or url" in capsys.readouterr().out
    train_here(tmp_path, tmp_path / "one", *keys)
    assert "data.corpora" not in capsys.readouterr().out


def test_the_doctor_looks_for_initial_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (random,) = check_start(composed())
    assert (random.level, random.found) == (OK, "random: all weights")
    clip_vision().save_pretrained("openai/clip")
    (here,) = check_start(composed("init.vision=openai/clip"))
    assert (here.level, here.found) == (OK, "openai/clip: openai/clip")
    (missing,) = check_start(composed("init.vision=openai/clip.pt"))
    assert (missing.level, missing.subject) == (FAIL, "init.vision")


def test_rehearsals_and_plans_need_no_initial_weights(tmp_path, capsys):
    start = "init.checkpoint=someone/nowhere"
    plan = [
        "plan",
        *TINY,
        "model.vocab_size=99",
        "global_batch=64",
        "data.lanes=32",
        "hardware=gaudi2x8",
        "out=null",
        start,
    ]
    assert main(plan) == 0
    assert f"start       {start}: neither fetched nor read" in capsys.readouterr().out
    rehearsal = ["rehearse", *TINY, f"data.root={tmp_path}", "world_size=4", f"scratch={tmp_path}", start]
    assert main(rehearsal) == 0
    out = capsys.readouterr().out
    assert f"start     random weights in place of {start}, which is neither fetched nor read" in out
    assert "init      random: all weights" in out


# --- the tokenizer


def opened(rank: int, given: list[str]) -> str:
    """The digest of a tokenizer, or why there is none, where each of two ranks is given another source."""
    try:
        return open_tokenizer(given[rank], Ranks(rank, 2, torch.distributed.group.WORLD)).digest
    except UserError as error:
        return str(error)


def test_the_first_rank_sends_the_tokenizer_to_those_that_lack_it(text, tmp_path):
    assert run_ranks(opened, 2, [str(text.path), "someone/nowhere"]) == [text.digest] * 2
    (tmp_path / "tokenizer.json").write_text("")
    first, second = run_ranks(opened, 2, [str(tmp_path), "someone/nowhere"])
    assert first == second
    assert first.startswith(f"{tmp_path}/tokenizer.json: is not a tokenizer that works")


# --- rates


def test_the_rates_from_towers_learn_from_random_weights_and_the_published_ones_do_not(shapes_root, tmp_path):
    lines = {}
    for recipe in ("gaudi_large_14m", "gaudi_large_14m_from_towers"):
        optim = composed(f"experiment={recipe}").optim
        rates = [f"optim.{key}={getattr(optim, key)}" for key in ("lr", "lr_fusion", "lr_heads", "lr_scale", "warmup")]
        run = ["steps=120", "global_batch=32", "log_every=10", "model.dropout=0", *rates]
        train_here(shapes_root, tmp_path / recipe, *run)
        first, *_, last = (line for line in metric_lines(tmp_path / recipe) if "loss" in line)
        lines[recipe] = {name: last[name] / first[name] for name in ("loss_mlm", "loss_itc")}
    published, from_towers = lines.values()
    assert min(published.values()) > 0.98
    assert from_towers["loss_mlm"] < 0.96
    assert from_towers["loss_itc"] < 0.85


# --- the optimizer's state


@pytest.fixture(scope="module")
def earlier(shapes_root, tmp_path_factory) -> Path:
    """A run of three steps without contrast. Do not write to it."""
    run_dir = tmp_path_factory.mktemp("runs") / "earlier"
    train_here(shapes_root, run_dir, "steps=3", "objective.itc=0")
    return run_dir


def states(rank: int, root: Path, overrides: list[str]) -> dict[str, torch.Tensor]:
    """The optimizer's state with which one of two ranks starts."""
    config = composed(*TINY, f"data.root={root}", "run_dir=/nowhere", *overrides)
    ranks = Ranks(rank, 2, torch.distributed.group.WORLD)
    device, _ = make_device(config.device, 0)
    config, tokenizer, *_ = read_data(config, ranks)
    compared = contrast(config, 2)
    graphs = planned_graphs(config, compared, device.execution)
    engine, optimizer = build_engine(config, device, ranks, compared, graphs, tokenizer)
    if optimizer:
        engine.load_optimizer(*optimizer)
    snapshot = engine.snapshot()
    return {name: tensor.clone() for name, tensor in snapshot.get("optimizer/state.safetensors", {}).items()}


@pytest.mark.parametrize(
    "engine",
    [
        "native",
        "zero2",
        pytest.param("zero3", marks=pytest.mark.nightly),
        pytest.param("zero0", marks=pytest.mark.nightly),
    ],
)
def test_the_state_of_another_run_is_taken_over(shapes_root, earlier, engine):
    if engine != "native":
        pytest.importorskip("deepspeed")
    start = [f"engine={engine}", f"init.checkpoint={earlier}", "init.optimizer=true"]
    main_rank, other = run_ranks(states, 2, shapes_root, start)
    assert not other
    there = load_file(earlier / "checkpoints" / "step-00000003" / "optimizer" / "state.safetensors")
    new = {name for name in main_rank if name.startswith(HEADS)}
    assert main_rank.keys() - new == there.keys()
    assert all(torch.equal(main_rank[name], there[name]) for name in there)
    assert {name.split(".")[0] for name in new} == {
        "itc_text_head",
        "itc_image_head",
        "itc_cross_modal_head",
        "logit_scale",
    }
    for name in new:
        assert torch.equal(main_rank[name], torch.full_like(main_rank[name], 3.0 if name.endswith(".step") else 0.0)), (
            name
        )


def test_a_continued_run_resumes_as_any_other(shapes_root, earlier, tmp_path, capsys):
    start = [f"init.checkpoint={earlier}", "init.optimizer=true", *EVENLY, "seed=5"]
    train_here(shapes_root, tmp_path / "whole", *start, "steps=2")
    assert "init      init.optimizer=true: the optimizer's state after 3 updates" in capsys.readouterr().out
    for steps in (1, 2):
        train_here(shapes_root, tmp_path / "twice", *start, f"steps={steps}")
    assert final_weights(tmp_path / "twice") == final_weights(tmp_path / "whole")
    train_here(shapes_root, tmp_path / "without", *start, "init.optimizer=false", "steps=2")
    assert final_weights(tmp_path / "without") != final_weights(tmp_path / "whole")


def test_heads_that_this_run_lacks_are_left_out(shapes_root, earlier, tmp_path):
    start = [f"init.checkpoint={earlier}", "init.optimizer=true", "objective.itc=0", "objective.itm=0"]
    train_here(shapes_root, tmp_path, *start, "steps=1")
    state = load_file(tmp_path / "checkpoints" / "step-00000001" / "optimizer" / "state.safetensors")
    assert {float(state[name]) for name in state if name.endswith(".step")} == {4.0}
    assert not any(name.startswith("itm_score") for name in state)


def test_what_has_no_state_to_take_over(shapes_root, earlier, folder, tmp_path, capsys):
    train_here(shapes_root, tmp_path / "frozen", "steps=1", "optim.freeze=[text]")
    capsys.readouterr()
    refused = {
        "needs the run to continue; name it in init.checkpoint": [],
        "has no optimizer's state; name a run of this project": [f"init.checkpoint={folder}", *SMALLER],
        "position_embedding.weight is [5, 64] in": [f"init.checkpoint={earlier}", "model.image_size=48"],
        "did not train bridgetower.text_model.embeddings.": [f"init.checkpoint={tmp_path / 'frozen'}"],
        "this run trains nothing that": [
            f"init.checkpoint={earlier}", "optim.freeze=[image,text,fusion]", "objective.mlm=0", "objective.itm=0",
        ],
    }  # fmt: skip
    for reason, overrides in refused.items():
        train_here(shapes_root, tmp_path / "new", "steps=1", "init.optimizer=true", *overrides, code=2)
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: init.optimizer=true: ")
        assert reason in line
    assert not (tmp_path / "new").exists()
