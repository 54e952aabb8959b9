"""The configuration: shipped experiments, documentation, and what wrong keys and values say."""

import dataclasses
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from bridgetower_train import compose
from bridgetower_train.cli import main
from bridgetower_train.config import DataConfig, Duration, TrainConfig
from bridgetower_train.errors import ConfigError
from tests.hostile.attacks import attack

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


@attack(45)
def test_nothing_in_the_configuration_of_a_run_is_resolved(tmp_path, monkeypatch):
    """It may be written by others, and its values end up in cards, pages and protocols."""
    monkeypatch.setenv("HF_TOKEN", "secret")
    path = tmp_path / "config.yaml"
    config = compose.compose(TrainConfig, "train", ["experiment=demo", "init.text=a-text-tower"])
    path.write_text(compose.to_yaml(config).replace("a-text-tower", "${oc.env:HF_TOKEN}"))
    assert compose.from_yaml(TrainConfig, path).init.text == "${oc.env:HF_TOKEN}"


ALIASES = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 2) if n else 'x'}]\n" for n in range(22))


@attack(46)
@attack(47)
@pytest.mark.parametrize(
    ("content", "part"),
    [
        (ALIASES, "line 2: has an alias"),
        ("x: " + "[" * 10_000, "nested more than 32 levels deep"),
        ("seed: 0x" + "f" * 100_000, "line 1: has an integer of over 64 bits"),
        ("seed: " + ":1" * 100_000, "has more than 131,072 bytes"),
        ("seed: 0o9", "seed"),
        ("seed: !!bool x", "restore the file"),
        ("seed: !!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("data: {lane: 3}", "lane"),
        ("unknown: 3", "unknown"),
        ("optim: {lr: .nan, warmup: [1]}", "optim.warmup"),
        ("model: [1", "line 1"),
        ("model: 3", "ModelConfig"),
        ("global_batch: 1" + "0" * 400, "has an integer of over 64 bits"),
        ("- 1", "consist of keys and values"),
        ("1: 2", "consist of keys and values"),
        ("", "consist of keys and values"),
        ("\x00", "special characters are not allowed"),
        (b"\xff", "invalid"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_configuration_of_a_run_is_refused_with_one_line(tmp_path, content, part):
    path = tmp_path / "config.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    began = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        compose.from_yaml(TrainConfig, path)
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert part in said
    assert "\n" not in said
    assert time.monotonic() - began < 5


def test_no_alias_is_written():
    same = [16, 32]
    config = dataclasses.replace(DataConfig(), text_buckets=same, corpora={"a": 1.0, "b": 1.0})
    written = compose.to_yaml(dataclasses.replace(TrainConfig(), data=config, run_dir="x", tokenizer="x"))
    assert "*" not in written
    assert "&" not in written


@attack(55)
@pytest.mark.parametrize(
    "override",
    [
        "--config-dir=/tmp", "--config-name=x", "hydra.run.dir={there}", "++hydra.searchpath=[/tmp]", "~hydra",
        "+x._target_=os.system", "+data.x._target_=os.system", "experiment=../../x", "+experiment=/etc/passwd", "data=null",
        "run_dir='${{oc.create:{{a:1}}}}'",
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", [["train"], ["eval"], ["train", "--cfg", "job"]], ids=" ".join)
def test_overrides_only_set_keys(tmp_path, capsys, command, override):
    given = override.format(there=tmp_path / "there")
    if command == ["train", "--cfg", "job"] and given.startswith(("+x", "+data", "run_dir")):
        pytest.skip("it shows what is composed, before it is checked")
    assert main([*command, given]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


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
        (["data.captions=[all]"], ["data.captions=['all']", "must be all, one, or shares of kinds"]),
        (["data.captions=null"], ["data.captions=None", "must be all, one, or shares of kinds"]),
        (["data.captions={alt: -1}"], ["data.captions.alt=-1", "a number from 0 on"]),
        (["data.captions={alt: much}"], ["data.captions.alt=much", "a number from 0 on"]),
        (["data.captions={alt: 0}"], ["must give a kind a share above 0"]),
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


@pytest.mark.parametrize(
    "value",
    ["runs/été", "runs/coco (copy)", "~/x", "epoch=3-step=1.ckpt", "x-{00..12}.tar", "[a.tar,b-{0..3}.tar]", "{a: 1}", "[a,b]",
     "width>=200 and kind in ('a', \"b\")", r"it's \'{x}", "{\\"],
)  # fmt: skip
def test_text_is_taken_as_it_stands(value):
    """Only where Hydra's grammar knows the value as text, or as a sweep, it counts."""
    assert train_config(f"run_dir={value}").run_dir == value
    (given,) = compose.as_they_stand(TrainConfig, [f"run_dir={value}"])
    assert compose.sweep([given, "seed=0,1"]) == [[given, "seed=0"], [given, "seed=1"]]
    assert compose.as_they_stand(TrainConfig, ["run_dir=a,b", "seed=[1]"]) == ["run_dir=a,b", "seed=[1]"]


def test_sweeps_are_all_combinations():
    assert compose.sweep(["seed=0,1", "optim.lr=1e-3", "model=tiny,base"]) == [
        ["seed=0", "optim.lr=1e-3", "model=tiny"],
        ["seed=0", "optim.lr=1e-3", "model=base"],
        ["seed=1", "optim.lr=1e-3", "model=tiny"],
        ["seed=1", "optim.lr=1e-3", "model=base"],
    ]
