"""What a user types wrong: each line of wrong_inputs.txt is answered with what is right, in words of our own."""

import re
import shlex
from contextlib import suppress
from pathlib import Path

import pytest

from bridgetower_train import compose
from bridgetower_train.cli import COMMANDS, load, main
from bridgetower_train.config import DataConfig, TrainConfig
from bridgetower_train.errors import ConfigError

TABLE = [
    line.split(" => ")
    for line in Path(__file__).with_name("wrong_inputs.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
WORDS = re.compile(
    r"DictConfig|ListConfig|Optional|of type|could not be converted|is not a subclass|mismatched input|viable alternative|"
    r"resolving interpolation|append to config|Config group override|Could not|Traceback|struct"
)
"""Of OmegaConf and Hydra."""


def words_of(typed: str) -> list[str]:
    return shlex.split(typed.replace("\\", "\\\\")) if "'" in typed else typed.split(" ")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("typed", "parts"), TABLE, ids=[typed for typed, _ in TABLE])
def test_a_wrong_input_is_answered_with_the_right_form(elsewhere, capsys, typed, parts):
    assert main(words_of(typed)) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert all(part in said for part in parts.split(" | ")), said
    assert not WORDS.search(said)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.nightly
@pytest.mark.parametrize("typed", [typed for typed, parts in TABLE if "did you mean" in parts and "=" in parts])
def test_a_suggestion_is_taken(typed):
    """It was composed before it was made; here as what is typed next."""
    name = next((n for n in (" ".join(words_of(typed)[:2]), words_of(typed)[0]) if n in COMMANDS), "")
    for suggestion in re.findall(r"did you mean ([\w.]+=.*?)\?", dict(TABLE)[typed]):
        with suppress(compose.MissingKeysError):
            compose.compose(load(name)[1], COMMANDS[name].base, shlex.split(suggestion))


def test_the_table_is_long_enough():
    assert len({typed for typed, _ in TABLE}) >= 40


@pytest.mark.parametrize("typed", ["train steps=1e3 --cfg job", "train seed=3 -h", "train ++seed=3 +steps=5 --cfg job"])
def test_what_is_right_is_not_refused(capsys, typed):
    assert main(typed.split()) == 0
    assert "seed" in capsys.readouterr().out


@pytest.mark.parametrize("micro_batch", [None, 2, 6, 8])
@pytest.mark.parametrize("batch", [1, 2, 4, 9, 10, 64, 96])
def test_every_number_of_lanes_that_is_suggested_is_taken(batch, micro_batch):
    for lanes in range(1, batch + 2):
        try:
            TrainConfig(global_batch=batch, micro_batch=micro_batch, data=DataConfig(lanes=lanes))
        except ConfigError as error:
            for near in re.findall(r"\d+", "".join(re.findall(r"nearest[a-z ]* are (\d+(?: and \d+)?)", str(error)))):
                TrainConfig(global_batch=batch, micro_batch=micro_batch, data=DataConfig(lanes=int(near)))


@pytest.mark.parametrize("ranks", [3, 5, 6, 7])
def test_every_number_of_ranks_that_is_suggested_is_taken(ranks):
    config = TrainConfig(global_batch=64, micro_batch=16, data=DataConfig(lanes=16))
    with pytest.raises(ConfigError) as caught:
        config.rank_batch(ranks)
    for near in re.findall(r"\d+", str(caught.value).partition("; start")[2].partition("ranks")[0]):
        config.rank_batch(int(near))


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if command.example])
def test_the_example_of_a_command_composes(name):
    config = compose.compose(load(name)[1], COMMANDS[name].base, shlex.split(COMMANDS[name].example))
    assert "???" not in repr(config)


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if not command.example])
def test_a_command_without_an_example_needs_no_keys(name):
    try:
        compose.compose(load(name)[1], COMMANDS[name].base, [])
    except ConfigError as error:
        pytest.fail(str(error))
