"""What others wrote reaches the terminal as text, in the line that speaks of it."""

import json
from hashlib import sha256
from pathlib import Path

import pytest

from bridgetower_train.cli import main
from tests.hostile.attacks import attack
from tests.tiny import TINY

KEY = "\x1b]0;PWNED\x07\x1b[1A\x1b[2Kstep 9/9"
NAME = "bad\nFAKE: all is well\r\x9b2J\u202e"


def shown(capsys) -> str:
    """What was printed; it holds nothing but lines of text."""
    printed = "".join(capsys.readouterr())
    assert printed.replace("\n", "").isprintable(), repr(printed)
    assert not any(line.startswith("FAKE") for line in printed.splitlines())
    return printed


@pytest.fixture
def write(make_tar, jpeg):
    """`write(folder)`: a corpus of a shard with a hostile name, keys, states and title, its last record damaged."""

    def written(folder: Path) -> None:
        members = [(f"{KEY}{n}.{kind}", data) for n in range(16) for kind, data in (("jpg", jpeg), ("txt", b"a word"))]
        broken = [(f"{NAME}{n}.{kind}", b"broken") for n in range(2) for kind in ("jpg", "txt")]
        make_tar(folder / f"0{NAME}.tar", [*members, *broken])
        assert main(["prep", "index", f"root='{folder}'"]) == 0
        index, path = bytearray((folder / "index.npy").read_bytes()), folder / "manifest.json"
        index[-1] ^= 1
        (folder / "index.npy").write_bytes(index)
        about = {"title": KEY, "note": NAME}
        notes = {"extra": {"rows": 40, "states": {"ok": 16, KEY: 1, NAME: 23}, "about": about}}
        notes["index_sha256"] = sha256(index).hexdigest()
        path.write_text(json.dumps(json.loads(path.read_text()) | notes))

    return written


@attack(6)
def test_names_in_tars_and_of_folders(write, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data" / NAME)
    assert r"bad\nFAKE: all is well\r\x9b2J\u202e" in shown(capsys)
    assert main(["prep", "lint", "root=data", "workers=1"]) == 1
    assert r"\x1b]0;PWNED\x07\x1b[1A\x1b[2Kstep 9/9" in shown(capsys)
    assert main(["prep", "stats", "root=data"]) == 0
    assert r"  \x1b]0;PWNED\x07\x1b[1A\x1b[2Kstep 9/9: 1" in shown(capsys)
    assert main(["prep", "card", "root=data"]) == 2
    shown(capsys)


@attack(6)
def test_keys_of_records_that_training_replaces(write, tmp_path, shapes_root, capsys):
    write(tmp_path / "data" / "hostile")
    capsys.readouterr()
    keys = [
        "data=own",
        "data.corpora={hostile: 1.0}",
        "data.validation=null",
        "data.max_bad_fraction=1",
        f"tokenizer={shapes_root}/shapes",
    ]
    keys += [f"data.root={tmp_path / 'data'}", f"run_dir={tmp_path / 'run'}", "steps=4"]
    assert main(["train", *TINY, *keys]) == 0
    printed = shown(capsys)
    assert r"hostile/0bad\nFAKE: all is well\r\x9b2J\u202e.tar:\x1b]0;PWNED" in printed
    assert sum(line.startswith("step 9/9") for line in printed.splitlines()) == 0


def test_an_error_is_one_line(tmp_path, capsys):
    assert main(["prep", "index", f"root='{tmp_path}/{NAME}{KEY}'"]) == 2
    assert shown(capsys).count("\n") == 1
