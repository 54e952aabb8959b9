"""A run folder of strangers: what its config.yaml names is contacted, written and deleted only if the command line names it."""

import os
import shutil
import socket
from pathlib import Path

import pytest
import yaml
from PIL import Image

from bridgetower_train.cli import main
from bridgetower_train.evaluation.protocol import read_evaluations
from bridgetower_train.weights.saved import read_config
from tests.hostile.attacks import attack
from tests.serving import of_folder, serving
from tests.training.runs import train_here

COMMANDS = (["eval"], ["eval", "masked_lm"], ["eval", "matching"], ["eval", "retrieval", "rerank=4"])


@pytest.fixture
def contacts(monkeypatch) -> list[object]:
    """Whatever this process connects to, or asks the addresses of."""
    seen: list[object] = []

    def watched(original):
        def call(*arguments, **keys):
            seen.append(arguments)
            return original(*arguments, **keys)

        return call

    for owner, name in ((socket.socket, "connect"), (socket.socket, "connect_ex"), (socket, "getaddrinfo")):
        monkeypatch.setattr(owner, name, watched(getattr(owner, name)))
    return seen


@pytest.fixture
def url(shapes_root):
    """The corpora on a server of the loopback."""
    with serving(of_folder(shapes_root)) as server:
        yield f"http://{server}"


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of somebody's files, among them some whose names are those of a cache."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("wedding.jpg", f"{16 * 'a'}-000000.tar"):
        (folder / name).write_bytes(bytes(50_000))
    (folder / ".bridgetower-cache").touch()
    return folder


def edit(run_dir: Path, **groups) -> None:
    """Change the config.yaml of a run: `edit(run_dir, data={"root": ...}, tokenizer=...)`."""
    path = run_dir / "config.yaml"
    config = yaml.safe_load(path.read_text())
    for key, value in groups.items():
        config[key] = config[key] | value if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(config))


@pytest.fixture
def theirs(run_dir, url, photos) -> Path:
    """A run whose config.yaml names a server, somebody's folder as a small cache, and names on the hub."""
    edit(
        run_dir,
        data={"root": url, "cache_dir": str(photos), "cache_gb": 0.00006},
        init={"vision": "someone/clip", "text": "someone/roberta"},
        tokenizer="someone/roberta",
    )
    return run_dir


@pytest.fixture
def own(tmp_path, shapes_root) -> list[str]:
    """The keys that let the corpora of that server be read."""
    return [f"cache_dir={tmp_path / 'cache'}", f"tokenizer={shapes_root}/shapes/tokenizer.json"]


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Path -> (bytes, time of the last change) of all that lies below a folder."""
    return {str(p.relative_to(folder)): (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*")}


@attack(36)
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_evaluation_contacts_only_what_its_command_line_names(theirs, url, photos, own, contacts, capsys, command):
    before = listing(photos), listing(theirs)
    (tokenizer,) = (key for key in own if key.startswith("tokenizer="))
    assert main([*command, f"run_dir={theirs}", tokenizer]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"error: root: data.root of the run is remote ({url}); to read it from there, give root=... and cache_dir=..."
    )
    assert main([*command, f"run_dir={theirs}", tokenizer, f"root={url}"]) == 2
    assert f"root={url}: is remote; set cache_dir" in capsys.readouterr().err
    assert (listing(photos), listing(theirs)) == before
    assert contacts == []


@attack(36)
def test_what_the_command_line_names_gives_the_same_figures(
    trained_run, theirs, url, photos, own, tmp_path, shapes_root, contacts
):
    before = listing(photos)
    for command in COMMANDS:
        assert main([*command, f"run_dir={trained_run}", f"out={tmp_path}/local.json"]) == 0
        assert main([*command, f"run_dir={theirs}", f"root={shapes_root}", *own[1:], f"out={tmp_path}/root.json"]) == 0
    assert contacts == []
    for command in COMMANDS:
        assert main([*command, f"run_dir={theirs}", f"root={url}", *own]) == 0
    assert len(contacts) > 2
    kept = [read_evaluations(path) for path in (tmp_path / "local.json", tmp_path / "root.json", theirs / "eval.json")]
    assert kept[1:] == [kept[0]] * 2
    assert listing(photos) == before
    assert {path.name[17:] for path in (tmp_path / "cache").glob("????????????????-*")} == {"index.npy", "000000.tar"}


@attack(36)
@pytest.mark.parametrize("form", ["{}", "{}/", "file://{}", "s3://bucket"])
def test_an_export_contacts_only_what_its_command_line_names(
    theirs, url, photos, own, tmp_path, contacts, capsys, form
):
    root = form.format(url)
    edit(theirs, data={"root": root})
    before = listing(photos), listing(theirs)
    assert main(["export", f"run_dir={theirs}", f"out={tmp_path}/out", own[1]]) == 0
    assert f"data.root of the run is remote ({root}); for its corpora's sizes" in capsys.readouterr().out
    assert "| unknown | unknown |" in (tmp_path / "out" / "README.md").read_text()
    assert contacts == []
    assert (listing(photos), listing(theirs)) == before


@attack(36)
def test_a_local_root_and_a_name_that_make_a_url_together_are_a_path(theirs, url, own, tmp_path, contacts, capsys):
    name = url.removeprefix("http:/")
    edit(theirs, data={"root": "http:", "corpora": {f"{name}/shapes": 1.0}, "validation": f"{name}/shapes_heldout"})
    assert main(["eval", f"run_dir={theirs}", own[1]]) == 2
    assert "data.root=http:: no such folder" in capsys.readouterr().err
    assert main(["export", f"run_dir={theirs}", f"out={tmp_path}/out", own[1]]) == 0
    assert contacts == []


def test_the_card_of_an_export_tells_the_corpora_at_root(trained_run, theirs, url, shapes_root, own, tmp_path, capsys):
    for source, name, keys in ((trained_run, "local", []), (theirs, "remote", [f"root={url}"])):
        assert main(["export", f"run_dir={source}", f"out={tmp_path}/{name}/run", own[1], *keys]) == 0
        assert "is remote" not in capsys.readouterr().out
    cards = [(tmp_path / name / "run" / "README.md").read_text() for name in ("local", "remote")]
    (row,) = (line for line in cards[0].splitlines() if "shapes" in line and "| 96 | 480 |" in line)
    assert row in cards[1].splitlines()


@attack(36)
def test_predict_and_report_contact_nothing(theirs, shapes_root, photos, own, tmp_path, contacts, capsys):
    Image.new("RGB", (40, 40)).save(tmp_path / "image.png")
    before = listing(photos)
    image, out = tmp_path / "image.png", tmp_path / "page.html"
    asked = ["predict", f"run_dir={theirs}", f"image={image}", "texts=['a ring']", f"out={out}"]
    assert main(asked) == 2
    assert capsys.readouterr().err.startswith("error: tokenizer=someone/roberta: no such file; ")
    assert main([*asked, own[1]]) == 0
    assert main(["report", f"run_dir={theirs}"]) == 0
    assert contacts == []
    assert listing(photos) == before


@attack(36)
def test_a_run_that_resumes_takes_nothing_from_its_folder(theirs, url, shapes_root, photos, contacts):
    before = listing(photos)
    train_here(shapes_root, theirs, "steps=3")
    assert contacts == []
    assert listing(photos) == before
    assert read_config(theirs).data.root == str(shapes_root)


@attack(36)
def test_a_run_that_starts_from_it_contacts_nothing(theirs, shapes_root, photos, tmp_path, contacts):
    before = listing(photos)
    train_here(shapes_root, tmp_path / "new", "steps=1", f"init.checkpoint={theirs}")
    assert contacts == []
    assert listing(photos) == before


def test_a_name_on_the_hub_that_a_run_started_from_is_only_shown(theirs, shapes_root, own, contacts):
    edit(theirs, init={"vision": None, "text": None, "checkpoint": "someone/model"})
    assert main(["eval", "matching", f"run_dir={theirs}", f"root={shapes_root}", own[1]]) == 0
    (entry,) = read_evaluations(theirs / "eval.json").values()
    assert "started from someone/model, whose own data is not known here" in entry["protocol"]["model"]
    assert contacts == []


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "http://127.0.0.1:9/model"])
def test_names_that_cannot_be_those_of_files(run_dir, contacts, name):
    edit(run_dir, init={"checkpoint": name}, data={"corpora": {name: 1.0}})
    assert main(["eval", "matching", f"run_dir={run_dir}"]) == 0
    (entry,) = read_evaluations(run_dir / "eval.json").values()
    assert entry["protocol"]["model"].startswith("zero-shot, as far as the names of its corpora tell: ")
    assert contacts == []


@attack(47)
@pytest.mark.parametrize("length", [1, 2, 3])
def test_runs_that_start_from_each_other(run_dir, tmp_path, length):
    """As where the first run of a chain was trained anew, from the last."""
    runs = [run_dir, *(tmp_path / f"run{number}" for number in range(1, length))]
    for folder in runs[1:]:
        shutil.copytree(run_dir, folder)
    for folder, start in zip(runs, [*runs[1:], run_dir], strict=True):
        edit(folder, init={"checkpoint": f"{start}/checkpoints/step-00000002"}, data={"corpora": {folder.name: 1.0}})
    assert main(["eval", "matching", f"run_dir={run_dir}"]) == 0
    (entry,) = read_evaluations(run_dir / "eval.json").values()
    trained = "; before that on ".join(folder.name for folder in runs)
    assert entry["protocol"]["model"] == (
        f"zero-shot, as far as the names of its corpora tell: trained on {trained}; "
        f"started from {run_dir}/checkpoints/step-00000002, whose own data is not known here"
    )


def test_what_is_wrong_with_an_earlier_run_is_said_before_the_work(run_dir, tmp_path, monkeypatch, capsys):
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / "config.yaml").write_text("unheard_of: 1")
    edit(run_dir, init={"checkpoint": str(tmp_path / "before")})
    monkeypatch.setattr("bridgetower_train.evaluation.matching.matching", None)
    assert main(["eval", "matching", f"run_dir={run_dir}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path}/before/config.yaml: is not the configuration of a run: ")


@attack(50)
@pytest.mark.parametrize("content", [None, "[" * 100_000, "1" * 5000], ids=["FIFO", "nested", "digits"])
def test_an_eval_json_that_cannot_be_read_is_replaced(run_dir, content):
    path = run_dir / "eval.json"
    os.mkfifo(path) if content is None else path.write_text(content)
    assert main(["eval", "matching", f"run_dir={run_dir}"]) == 0
    assert list(read_evaluations(path)) == ["matching on shapes_heldout"]
    assert (run_dir / "eval.json.damaged").exists() == (content is not None)
