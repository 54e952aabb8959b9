"""The commands of docs/data.md exist, with the keys that it gives them."""

import re
import shlex
from pathlib import Path

import pytest

from bridgetower_train.cli import COMMANDS, load
from bridgetower_train.compose import compose_node

GUIDE = Path(__file__).parents[3] / "docs" / "data.md"
BLOCKS = re.findall(r"```sh\n(.*?)```", GUIDE.read_text(), re.S)
LINES = [
    line for block in BLOCKS for line in block.splitlines() if line.startswith("bridgetower") and "..." not in line
]
WEB = ("prep cc3m", "prep cc12m", "prep sbu")


def test_there_are_commands():
    assert len(LINES) > 10


@pytest.mark.parametrize("line", LINES)
def test_command(line):
    words = shlex.split(line, comments=True)[1:]
    name = " ".join(words[:2]) if words[0] == "prep" else words[0]
    if name in WEB:
        pytest.importorskip("data_prep.corpora.web")
    _, schema = load(name)
    compose_node(schema, COMMANDS[name].base, words[len(name.split()) :])
