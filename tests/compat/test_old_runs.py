"""What older versions wrote is read for good: their runs resume, evaluate, export and report, and keys keep their names."""

import hashlib
import json
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file

from bridgetower_train.cli import main
from tests.compat.write import FINE_TUNE, PREDICT, TRAIN
from tests.training.runs import metric_lines

ARCHIVES = sorted(Path(__file__).parent.glob("run_*.tar.xz"))
CHECKPOINT = Path("run/checkpoints/step-00000004")
RESUME = ["train", *TRAIN, "run_dir=run"]


@pytest.fixture(scope="module", params=ARCHIVES, ids=lambda path: path.name.split(".")[0])
def unpacked(request, tmp_path_factory):
    """A version's archive, unpacked. Do not write to it."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(request.param) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture
def old(unpacked, tmp_path, monkeypatch):
    """A copy, which is the current folder."""
    shutil.copytree(unpacked, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


NEW_SINCE = re.compile(r"val_(?!i2t|t2i)")
"""What is validated otherwise since: the losses were those of the first batches of an order by the run's seed."""


def same_lines(lines: list[dict], expected: list[dict]) -> None:
    """Every figure of the older version's lines that means the same is the same, but for the rounding of another torch or
    processor."""
    assert len(lines) == len(expected)
    for line, then in zip(lines, expected, strict=True):
        known = {name: value for name, value in then.items() if not NEW_SINCE.match(name)}
        assert {name: line.get(name) for name in known} == pytest.approx(known, rel=1e-4, abs=1e-5)


def change_identity(change) -> None:
    """Let `change` edit what the newest checkpoint knows of its run, and seal the checkpoint again."""
    state, manifest = (json.loads((CHECKPOINT / name).read_text()) for name in ("state.json", "manifest.json"))
    change(state["identity"])
    content = json.dumps(state).encode()
    manifest["files"]["state.json"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (CHECKPOINT / "state.json").write_bytes(content)
    (CHECKPOINT / "manifest.json").write_text(json.dumps(manifest))


def test_there_is_an_older_version():
    assert ARCHIVES


def test_it_resumes(old, capsys):
    assert main(RESUME) == 0
    assert "resume    from step 4" in capsys.readouterr().out
    same_lines(metric_lines(old / "run"), metric_lines(old / "expected", "resumed.jsonl"))


@pytest.mark.parametrize("keys", [["data.augment"], ["model.layer_norm_eps", "objective.itc_form", "data.captions"]])
def test_a_key_that_its_state_lacks_counts_as_the_default(old, keys):
    change_identity(lambda identity: [identity.pop(key) for key in keys])
    assert main(RESUME) == 0
    same_lines(metric_lines(old / "run"), metric_lines(old / "expected", "resumed.jsonl"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda identity: identity.update(seed=1), "seed was 1, is 0"),
        (lambda identity: identity.pop("data.lanes"), "data.lanes was 8, is 4"),
    ],
    ids=["another value", "lacking, and not the default"],
)
def test_a_run_with_other_values_is_refused(old, capfd, change, said):
    change_identity(change)
    before = (old / "run" / "metrics.jsonl").read_text()
    assert main(RESUME) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert f"belongs to another run: {said}. " in line
    assert (old / "run" / "metrics.jsonl").read_text() == before


def named_as_now(path: Path) -> list[tuple[str, float]]:
    return [(name.replace("masked word", "probe word"), value) for name, value in figures(json.loads(path.read_text()))]


def figures(tree, name="") -> list[tuple[str, float]]:
    """(name, value) of the numbers in `eval.json`, however deep they lie; examples and protocols are left out."""
    if isinstance(tree, dict):
        inner = {key: value for key, value in tree.items() if key not in ("examples", "protocol", "step")}
        return [found for key, value in inner.items() for found in figures(value, key)]
    return [(name.replace("picture", "image"), tree)] if isinstance(tree, int | float) else []


@pytest.mark.parametrize(
    "evaluation",
    [["eval"], ["eval", "retrieval", "rerank=4"], ["eval", "matching"], ["eval", "masked_lm"]],
    ids=" ".join,
)
def test_it_evaluates(old, evaluation):
    """Every figure of this evaluation is what it was, and the others stay in `eval.json`."""
    before = named_as_now(old / "run" / "eval.json")
    assert len(before) > 30
    assert main([*evaluation, "run_dir=run", "device=cpu"]) == 0
    after = named_as_now(old / "run" / "eval.json")
    for name in dict(before):
        values, expected = (sorted(value for key, value in found if key == name) for found in (after, before))
        assert values == pytest.approx(expected, rel=1e-3), name


def test_it_exports(old):
    assert main(["export", "run_dir=run", "out=exported"]) == 0
    weights, exported = load_file(CHECKPOINT / "model.safetensors"), load_file("exported/model.safetensors")
    assert weights.keys() <= exported.keys()
    assert all(weights[name].equal(exported[name]) for name in weights)


def test_it_is_reported(old):
    """With a chart of the loss, the last of which stands in the head, and every figure of its evaluations."""
    assert main(["report", "run_dir=run"]) == 0
    page = (old / "run" / "report.html").read_text()
    assert f"{metric_lines(old / 'run')[-1]['loss']:.2f}" in page
    assert page.count("data-curves=") > 5
    for name, _ in figures(json.loads((old / "run" / "eval.json").read_text())):
        assert name.split(",")[0] in page


def test_it_predicts(old, capsys):
    assert main(PREDICT) == 0
    printed, expected = (
        [float(number) for number in re.findall(r"(?<!softmax over the texts )-?\d\.\d{3}", text)]
        for text in (capsys.readouterr().out, (old / "expected" / "predict.txt").read_text())
    )
    assert len(expected) == 9
    assert printed == pytest.approx(expected, abs=2e-3)


def test_a_run_starts_from_it(old):
    assert main(["train", *FINE_TUNE]) == 0
    new_since = {"loss", "loss_itm", "acc_itm", "grad_norm"}  # its hard negatives were images alone
    expected = metric_lines(old / "expected", "tuned.jsonl")
    first = {name: value for name, value in expected[0].items() if name not in new_since}
    same_lines(metric_lines(old / "tuned")[:1], [first])


def test_its_corpora_are_whole(old):
    assert main(["prep", "lint", "root=data", "tokenizer=data/shapes", "workers=1"]) == 0


def test_its_shards_are_indexed_alike(old):
    index = old / "data" / "shapes" / "index.npy"
    before = np.load(index)
    index.unlink()
    (old / "data" / "shapes" / "manifest.json").unlink()
    assert main(["prep", "index", "root=data/shapes"]) == 0
    assert np.array_equal(np.load(index)[list(before.dtype.names)], before)


def keys(tree, prefix="") -> set[str]:
    """The keys of a tree of dictionaries."""
    if not isinstance(tree, dict):
        return {prefix}
    return {prefix}.union(*(keys(value, f"{prefix}.{key}") for key, value in tree.items()))


def written(run_dir: Path, checkpoint: str, corpus: Path) -> dict[str, set[str]]:
    """File -> the names that stand in it."""
    step = run_dir / "checkpoints" / checkpoint
    state = json.loads((step / "state.json").read_text()) | {"versions": {}}
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return {
        "state.json": keys(state),
        "a checkpoint's manifest.json": keys(json.loads((step / "manifest.json").read_text())),
        "model.safetensors": set(load_file(step / "model.safetensors")),
        "state.safetensors": set(load_file(step / "optimizer" / "state.safetensors")),
        "config.yaml": keys(yaml.safe_load((run_dir / "config.yaml").read_text())),
        "metrics.jsonl": {key for line in lines for key in line},
        "a corpus's manifest.json": keys(json.loads((corpus / "manifest.json").read_text())),
        "index.npy": set(np.load(corpus / "index.npy").dtype.names),
    }


def test_every_name_is_still_written(old):
    expected = written(old / "run", CHECKPOINT.name, old / "data" / "shapes")
    assert min(map(len, expected.values())) > 3
    assert main(["prep", "shapes", "out=new", "records=24", "heldout=12", "size=32", "workers=1"]) == 0
    assert main(["train", *TRAIN, "data.root=new", "run_dir=fresh", "steps=2"]) == 0
    now = written(old / "fresh", "step-00000002", old / "new" / "shapes")
    assert {name: names - now[name] for name, names in expected.items()} == {name: set() for name in expected}
