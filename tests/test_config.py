"""The configuration: shipped experiments, documentation, and what wrong keys and values say."""

import dataclasses
import time
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from bridgetower_train import compose
from bridgetower_train.cli import main
from bridgetower_train.config import DataConfig, Duration, TrainConfig
from bridgetower_train.errors import ConfigError
from data_prep.corpora.conceptual import Cc3mConfig
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


def test_lengths_beyond_the_longest_text_are_not_used():
    assert train_config("data=coco", "model.max_text_len=50").text_lengths == [16, 24, 32, 50]
    assert train_config("data=coco", "model.max_text_len=28").text_lengths == [16, 24, 28]
    assert train_config("data=coco", "model.max_text_len=24").text_lengths == [16, 24]


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
        ("optim: {lr: .inf}", "optim.lr=inf: must be a finite number"),
        ("model: [1", "line 1"),
        ("model: 3", "it does not consist of the keys of one"),
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
        "--config-name=x", "hydra.run.dir={there}", "++hydra.searchpath=[/tmp]", "~hydra",
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
    assert "error: pictures=3: no such key; did you mean images=3?" in capsys.readouterr().err


def test_a_former_name_that_the_command_has_no_use_for_is_unknown(capsys):
    assert main(["prep", "card", "pictures=3"]) == 2
    assert "pictures=3: no such key" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["optim.lrr=1"], ["optim.lrr=1", "did you mean optim.lr=1?"]),
        (["modle=tiny"], ["modle=tiny", "did you mean model=tiny?"]),
        (["model=tinny"], ["model=tinny", "base, large, tiny", "did you mean 'tiny'"]),
        (["model.width=abc"], ["model.width=abc", "must be a whole number"]),
        (["model.width=100"], ["model.width=100", "multiple of 64"]),
        (["model.patch_size=7"], ["model.image_size=64", "63 and 70"]),
        (["model.max_text_len=513"], ["model.max_text_len=513", "512", "model.text_positions"]),
        (["model.fusion_layers=5"], ["model.vision_layers=4", "model.fusion_layers=5"]),
        (["data.lanes=7"], ["data.lanes=7", "global_batch=64", "4 and 8"]),
        (["data.lanes=64"], ["data.lanes=64", "the nearest that give more are 16 and 32"]),
        (["micro_batch=12"], ["micro_batch=12", "multiple of", "8"]),
        (["distributed.timeout=0"], ["distributed.timeout=0", "at least 1"]),
        (["data.captions=al"], ["data.captions=al", "all, one", "did you mean 'all'"]),
        (["data.captions=[all]"], ["data.captions=['all']", "must be all, one, or shares of kinds"]),
        (["data.captions=null"], ["data.captions=None", "must be all, one, or shares of kinds"]),
        (["data.captions={alt: -1}"], ["data.captions.alt=-1", "a number from 0 on"]),
        (["data.captions={alt: much}"], ["data.captions.alt=much", "a number from 0 on"]),
        (["data.captions={1: 0.5, alt: 0.5}"], ["data.captions={1: 0.5, 'alt': 0.5}", "or shares of kinds"]),
        (["data.captions={alt: 0}"], ["must give a kind a share above 0"]),
        (["objective.itc=0", "objective.itm_negatives=hard"], ["objective.itm_negatives=hard", "objective.itc"]),
        (["objective.mlm=0", "objective.itm=0", "objective.itc=0"], ["objective", "at least one"]),
        (["optim.warmup=soon"], ["optim.warmup=soon"]),
        (["steps=10%"], ["steps=10%"]),
        (["optim.schedule=cosin"], ["optim.schedule=cosin", "did you mean 'cosine'"]),
        (["data.validation=null", "validation.every=5"], ["validation.every=5", "data.validation"]),
        (["checkpoint.keep_last=1"], ["checkpoint.keep_last=1", "at least 2"]),
        (["steps"], ["steps: ", "write steps=..."]),
        (["=3"], ["=3: ", "key=value"]),
        (["steps=1.2.3"], ["steps=1.2.3: must be"]),
        (["steps=1e999"], ["steps=1e999: must be"]),
        (["seed=été"], ["seed=été: ", "write seed=1"]),
        (["optim.lr=a b"], ["optim.lr=a b: ", "write optim.lr=0.1"]),
        (["seed=1,2"], ["seed=1,2: ", "--multirun"]),
        (["data.text_buckets=12,16"], ["data.text_buckets=12,16: ", "write 'data.text_buckets=[12,16]'", "--multirun"]),
        (["resume_from=last"], ["resume_from=last: ", "write resume_from=1"]),
        (["resume_from=0"], ["resume_from=0: must be at least 1"]),
        (["guards.max_grad_norm_ratio=1"], ["guards.max_grad_norm_ratio=1: must be above 1, or 0"]),
        (["guards.max_grad_norm_ratio=-3"], ["guards.max_grad_norm_ratio=-3: must be above 1, or 0"]),
        (["metrics.layers_every=15"], ["metrics.layers_every=15", "a multiple of log_every=10"]),
        (["global_batch=1", "data.lanes=1"], ["global_batch=1: ", "use at least 2"]),
        (["data.text_buckets=16"], ["data.text_buckets=16: ", "write 'data.text_buckets=[16]'"]),
        (["data.corpora=coco"], ["data.corpora=coco: ", "write 'data.corpora={NAME: VALUE}'"]),
        (["data.corpora={coco}"], ["data.corpora={coco}: ", "write 'data.corpora={NAME: VALUE}'"]),
        (
            ["data.corpora={coco: much}"],
            ["data.corpora={coco: much}: data.corpora.coco must be a number", "write data.corpora.coco=0.1"],
        ),
        (["run_dir=${oc.env:NOPE_NOPE}"], ["run_dir=${oc.env:NOPE_NOPE}: ", "\\${"]),
        (["run_dir=runs/${x"], ["run_dir=runs/${x: ", "\\${"]),
        (["(x)=3"], ["(x)=3: no such key"]),
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


PATHS = [
    "runs/été", "runs/猫", "~/data", "epoch=3-step=100.ckpt", "runs/coco (copy)", "a, b", "a,b", "{x}/y", "x-{00..12}.tar",
    "[a,b]", "{a: 1}", "it's", "'a' or 'b'", 'a "b"', "a\\", "a\\'b", "#1", "a & b", "1e5", "1_000", "007", "true", "a: b",
    "@home", "!x", "%s", "$HOME", "x;y|z", "a..b", "choice(a,b)", "range(3)", "'", "a'b'", "?", "*.tar", "nan",
]  # fmt: skip


def cc3m_config(*overrides: str) -> Cc3mConfig:
    return compose.compose(Cc3mConfig, None, ["annotations=a.tsv", "out=data", *overrides])


@pytest.mark.parametrize("value", PATHS)
def test_text_is_taken_as_it_stands(value):
    config = cc3m_config(f"out={value}", f"++fetch.contact= {value} ")
    assert (config.out, config.fetch.contact) == (value, value)
    if not set(value) & set("[]{}()'\","):
        assert cc3m_config(f"exclude=[/a.tsv, {value} ]").exclude == ["/a.tsv", value]


@given(st.text(st.characters(exclude_categories=("C", "Z"), include_characters=" \\'\""), min_size=1))
@settings(max_examples=30, deadline=None)
def test_any_text_is_taken_as_it_stands(value):
    plain = value.strip()
    assume(plain.lower() not in ("", "null", "???") and "${" not in plain and plain[0] not in "'\"")
    assert cc3m_config(f"hashes={value}").hashes == plain


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("null", None),
        ("'null'", "null"),
        ('"a b"', "a b"),
        (r"'it\'s'", "it's"),
        ("${seed}/x", "0/x"),
        (r"\${x}", "${x}"),
        ("", ""),
    ],
)
def test_what_text_means_else(value, meant):
    assert train_config(f"data.validation={value}").data.validation == meant


def test_a_mapping_replaces_that_of_the_recipe_and_a_name_is_added():
    coco = train_config("experiment=finetune_coco").data.corpora
    assert train_config("experiment=finetune_coco", "data.corpora={x: 1}").data.corpora == {"x": 1.0}
    assert train_config("experiment=finetune_coco", "data.corpora.x=1").data.corpora == {**coco, "x": 1.0}
    assert train_config("experiment=finetune_coco", "data.corpora={x:1,y:2}", "data.corpora.x=3").data.corpora == {
        "x": 3.0,
        "y": 2.0,
    }
    assert train_config("data.corpora.y=2", "data.corpora={x: 1}").data.corpora == {"x": 1.0}
    assert train_config("experiment=finetune_coco", "+data.corpora={x: 1}").data.corpora == {**coco, "x": 1.0}
    names = "data.corpora={été: 0.5, 'a b': 1, my-corpus.v2: 2, (copy): 3}"
    assert train_config(names).data.corpora == {"été": 0.5, "a b": 1.0, "my-corpus.v2": 2.0, "(copy)": 3.0}
    assert train_config("data.corpora={x: 1}", "data.corpora.v1.2=1").data.corpora == {"x": 1.0, "v1.2": 1.0}
    assert train_config("experiment=finetune_coco", "data.corpora={}").data.corpora == {}


@pytest.mark.parametrize(
    ("given", "jobs"),
    [
        ("steps='1 steps','2 steps'", ["steps='1 steps'", "steps='2 steps'"]),
        ("steps=1 steps, 2 steps", ["steps='1 steps'", "steps='2 steps'"]),
        ("tokenizer=/été/a,/b (1)", ["tokenizer='/été/a'", "tokenizer='/b (1)'"]),
        ("tokenizer=x-{a,b}", ["tokenizer='x-{a,b}'"]),
        ("steps=choice(1,2)", ["steps=1", "steps=2"]),
        ("data.corpora={a: 1},{b: 1}", ["data.corpora={a:1}", "data.corpora={b:1}"]),
    ],
)
def test_sweeps_over_texts_and_mappings(given, jobs):
    overrides = compose.as_they_stand(TrainConfig, [given])
    assert [job for (job,) in compose.sweep(overrides)] == jobs


def test_sweeps_are_all_combinations():
    assert compose.sweep(["seed=0,1", "optim.lr=1e-3", "model=tiny,base"]) == [
        ["seed=0", "optim.lr=1e-3", "model=tiny"],
        ["seed=0", "optim.lr=1e-3", "model=base"],
        ["seed=1", "optim.lr=1e-3", "model=tiny"],
        ["seed=1", "optim.lr=1e-3", "model=base"],
    ]
