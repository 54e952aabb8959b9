"""The configuration: shipped experiments, documentation, and what wrong keys and values say."""

import dataclasses
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from bridgetower_train import compose
from bridgetower_train.cli import main
from bridgetower_train.config import Duration, TrainConfig
from bridgetower_train.errors import ConfigError

GOLDEN = Path(__file__).parent / "golden"
EXPERIMENTS = compose.groups()["experiment"]


def train_config(*overrides: str) -> TrainConfig:
    return compose.compose(TrainConfig, "train", list(overrides))


def message(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        train_config(*overrides)
    return str(caught.value)


def test_the_published_recipes_are_shipped():
    assert {"demo", "ms_base_4m", "ms_large_4m", "gaudi_large_14m"} <= set(EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_resolve_to_their_golden_file(name):
    resolved = compose.to_yaml(train_config(f"experiment={name}"))
    assert resolved == (GOLDEN / f"{name}.yaml").read_text(), (
        f"the resolved form of {name} changed; if that is meant, write tests/golden/{name}.yaml anew"
    )


@pytest.mark.parametrize("group", sorted(set(compose.groups()) - {"experiment"}))
def test_every_group_composes(group):
    for choice in compose.groups()[group]:
        train_config(f"{group}={choice}")


def test_yaml_round_trip(tmp_path):
    config = train_config("experiment=gaudi_large_14m")
    (tmp_path / "config.yaml").write_text(compose.to_yaml(config))
    assert compose.from_yaml(TrainConfig, tmp_path / "config.yaml") == config


def test_configurations_are_frozen_and_plain():
    config = train_config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1
    assert not OmegaConf.is_config(config.data.corpora)


def test_nothing_in_the_configuration_of_a_run_is_resolved(tmp_path, monkeypatch):
    """It may be written by others, and its values end up in cards, pages and protocols."""
    monkeypatch.setenv("HF_TOKEN", "secret")
    path = tmp_path / "config.yaml"
    config = compose.compose(TrainConfig, "train", ["experiment=demo", "init.text=a-text-tower"])
    path.write_text(compose.to_yaml(config).replace("a-text-tower", "${oc.env:HF_TOKEN}"))
    assert compose.from_yaml(TrainConfig, path).init.text == "${oc.env:HF_TOKEN}"


def test_every_key_is_documented():
    undocumented = [key for key, _, text in compose.field_docs(TrainConfig) if len(text) < 10]
    assert undocumented == []


def test_the_former_name_of_a_key_is_answered_with_the_new_one(capsys):
    assert main(["prep", "stats", "pictures=3"]) == 2
    assert "error: pictures: is now called images; write images=..." in capsys.readouterr().err


def test_a_former_name_that_the_command_has_no_use_for_is_unknown(capsys):
    assert main(["prep", "card", "pictures=3"]) == 2
    assert "pictures: no such key" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["optim.lrr=1"], ["optim.lrr", "did you mean 'optim.lr'"]),
        (["modle=tiny"], ["modle", "did you mean 'model'"]),
        (["model=tinny"], ["model=tinny", "base, large, tiny", "did you mean 'tiny'"]),
        (["model.width=abc"], ["model.width", "abc", "Integer"]),
        (["model.width=100"], ["model.width=100", "multiple of 64"]),
        (["model.patch_size=7"], ["model.image_size=64", "63 and 70"]),
        (["model.max_text_len=513"], ["model.max_text_len=513", "512", "model.text_positions"]),
        (["model.fusion_layers=5"], ["model.vision_layers=4", "model.fusion_layers=5"]),
        (["data.lanes=7"], ["data.lanes=7", "global_batch=64", "4 and 8"]),
        (["data.lanes=64"], ["data.lanes=64", "at most 32"]),
        (["micro_batch=12"], ["micro_batch=12", "multiple of", "8"]),
        (["distributed.timeout=0"], ["distributed.timeout=0", "at least 1"]),
        (["data.captions=al"], ["data.captions=al", "all, one", "did you mean 'all'"]),
        (["data.text_buckets=[16,200]"], ["data.text_buckets", "model.max_text_len"]),
        (["objective.itc=0", "objective.itm_negatives=hard"], ["objective.itm_negatives=hard", "objective.itc"]),
        (["objective.mlm=0", "objective.itm=0", "objective.itc=0"], ["objective", "at least one"]),
        (["optim.warmup=soon"], ["optim.warmup=soon"]),
        (["steps=10%"], ["steps=10%"]),
        (["optim.schedule=cosin"], ["optim.schedule=cosin", "did you mean 'cosine'"]),
        (["data.validation=null", "validation.every=5"], ["validation.every=5", "data.validation"]),
        (["checkpoint.keep_last=1"], ["checkpoint.keep_last=1", "at least 2"]),
        (["steps"], ["steps", "key=value"]),
    ],
)
def test_wrong_values_name_the_key_and_what_is_allowed(overrides, parts):
    text = message(*overrides)
    assert all(part in text for part in parts), text
    assert "\n" not in text


def test_ranks_must_divide_the_lanes():
    config = train_config("data.lanes=8")
    assert config.rank_batch(4) == (16, 1)
    assert train_config("data.lanes=8", "micro_batch=8").rank_batch(4) == (8, 2)
    with pytest.raises(ConfigError, match=r"data\.lanes=8: must be a multiple of the 3 ranks; start 2 or 4 ranks"):
        config.rank_batch(3)


@pytest.mark.parametrize(
    ("text", "steps"),
    [("100", 100), ("100 steps", 100), ("1000 samples", 16), ("2 epochs", 20), ("10%", 50), ("1e3samples", 16)],
)
def test_durations(text, steps):
    assert Duration.parse("steps", text).steps(global_batch=64, epoch_samples=640, run_steps=500) == steps


def test_sweeps_are_all_combinations():
    assert compose.sweep(["seed=0,1", "optim.lr=1e-3", "model=tiny,base"]) == [
        ["seed=0", "optim.lr=1e-3", "model=tiny"],
        ["seed=0", "optim.lr=1e-3", "model=base"],
        ["seed=1", "optim.lr=1e-3", "model=tiny"],
        ["seed=1", "optim.lr=1e-3", "model=base"],
    ]
