"""`bridgetower search`: exact, ranked again by matching, for its own model alone, confined to the images that its index names."""

import contextlib
import json
import os
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

import bridgetower_train as bt
from bridgetower_train.cli import main
from bridgetower_train.errors import ConfigError, FileError
from bridgetower_train.evaluation.protocol import read_evaluations
from bridgetower_train.pages.search.view import view
from bridgetower_train.use import search as search_module
from bridgetower_train.use.index import open_index
from bridgetower_train.use.search import Search, nearest
from bridgetower_train.use.sources import FolderImages
from tests.fuzz.cases import DAMAGE
from tests.hostile.attacks import attack
from tests.rendering import active
from tests.training.runs import train_here

TEXTS = "a red ring\na blue square\na small green triangle\n<script>alert(1)</script>\n"


@pytest.fixture(scope="module")
def home(trained_run, photos, shapes_root, tmp_path_factory):
    """A folder with `photos`, the indexes `photos.parquet`, `half.npy` and `texts.parquet`, and `corpus.parquet` with `data`."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(photos, folder / "photos")
    shutil.copytree(shapes_root, folder / "data")
    (folder / "texts.txt").write_text(TEXTS)
    for keys in (
        [f"images={folder}/photos", f"out={folder}/photos.parquet"],
        [f"images={folder}/photos", f"out={folder}/half.npy", "dtype=float16"],
        [f"texts={folder}/texts.txt", f"out={folder}/texts.parquet"],
        ["corpus=shapes_heldout", f"root={folder}/data", f"out={folder}/corpus.parquet"],
    ):
        assert main(["embed", f"run_dir={trained_run}", "device=cpu", *keys]) == 0
    return folder


@pytest.fixture(scope="module")
def model(trained_run):
    return bt.load(trained_run, device="cpu")


def search_here(home, *keys, code=0):
    assert main(["search", "device=cpu", f"page={home}/page.html", *map(str, keys)]) == code


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("k", [1, 7, 1000])
def test_the_search_is_exact_over_blocks(dtype, k, monkeypatch):
    monkeypatch.setattr(search_module, "BLOCK", 64)
    random = np.random.default_rng(0)
    embeddings = random.standard_normal((333, 16)).astype(dtype)
    queries = torch.from_numpy(random.standard_normal((3, 16)).astype(np.float32))
    scores, places = nearest(queries, embeddings, k)
    cosines = queries.numpy() @ embeddings.astype(np.float32).T
    order = np.argsort(-cosines, axis=1)[:, :k]
    assert np.array_equal(places.numpy(), order)
    assert np.allclose(scores.numpy(), np.take_along_axis(cosines, order, 1), atol=1e-5)


@pytest.mark.parametrize("name", ["photos.parquet", "half.npy"])
def test_a_text_finds_images(model, home, capsys, name):
    search_here(home, f"index={home}/{name}", "text=a red ring", "top=4", f"out={home}/found.json")
    found = json.loads((home / "found.json").read_text())
    files = sorted(str(path.relative_to(home / "photos")) for path in (home / "photos").rglob("*.jpg"))
    cosines = dict(
        zip(files, model.similarity([home / "photos" / f for f in files], "a red ring")[:, 0].tolist(), strict=True)
    )
    best = sorted(cosines, key=lambda file: -cosines[file])[:4]
    assert [result["key"] for result in found["results"]] == best
    tolerance = 1e-3 if name == "half.npy" else 1e-5
    assert [r["similarity"] for r in found["results"]] == pytest.approx([cosines[f] for f in best], abs=tolerance)
    assert found["calibration"] is None
    assert "match" not in found["results"][0]
    page = (home / "page.html").read_text()
    assert page.count("<img") == 8  # each image, and where the text looks in it
    assert capsys.readouterr().out.count(best[0]) == 1


def test_re_ranking_goes_by_the_probability_of_a_match(model, home, trained_run, capsys):
    keys = [f"index={home}/photos.parquet", "text=a red ring", "top=6", "rerank=4", f"out={home}/found.json"]
    search_here(home, *keys)
    found = json.loads((home / "found.json").read_text())
    results = found["results"]
    assert [("match" in result) for result in results] == [True] * 4 + [False] * 2
    matches = [result["match"] for result in results[:4]]
    assert matches == sorted(matches, reverse=True)
    wanted = model.match([home / "photos" / result["key"] for result in results[:4]], "a red ring")[:, 0]
    assert matches == pytest.approx(wanted.tolist(), abs=1e-5)
    assert found["calibration"] == f"not measured; bridgetower eval matching run_dir={trained_run} measures it"
    assert found["calibration"] in capsys.readouterr().out
    assert f"bridgetower eval matching run_dir={trained_run}" in (home / "page.html").read_text()


def test_an_image_finds_texts_and_images(home, capsys):
    image = f"image={home}/photos/3.jpg"
    search_here(home, f"index={home}/texts.parquet", image, "rerank=3", f"out={home}/found.json")
    results = json.loads((home / "found.json").read_text())["results"]
    assert {result["key"] for result in results} == set(TEXTS.splitlines())
    assert [("match" in result) for result in results] == [True] * 3 + [False]
    assert active((home / "page.html").read_text()) == ["script"]
    search_here(home, f"index={home}/corpus.parquet", image, "top=3")
    search_here(home, f"index={home}/photos.parquet", image, "top=1", f"out={home}/found.json")
    (result,) = json.loads((home / "found.json").read_text())["results"]
    assert (result["key"], result["similarity"]) == ("3.jpg", pytest.approx(1, abs=1e-5))
    search_here(home, f"index={home}/photos.parquet", image, "rerank=3", code=2)
    assert "rerank=3: needs a text and an image" in capsys.readouterr().err


def test_calibration_is_that_of_the_checkpoint(home, trained_run, tmp_path, model):
    run = shutil.copytree(trained_run, tmp_path / "run")
    assert main(["eval", "matching", f"run_dir={run}", "samples=8", "device=cpu"]) == 0
    (entry,) = read_evaluations(run / "eval.json").values()
    said = f"expected calibration error {entry['figures']['ECE']:.3f} on shapes_heldout"
    search_here(
        home, f"index={home}/photos.parquet", f"run_dir={run}", "text=a ring", "rerank=2", f"out={home}/found.json"
    )
    assert json.loads((home / "found.json").read_text())["calibration"] == said
    assert bt.load(run, "cpu").calibration == said
    exported = tmp_path / "exported"
    assert main(["export", f"run_dir={run}", f"out={exported}"]) == 0
    assert bt.load(exported, "cpu").calibration == said
    entry["figures"]["ECE"] = 1.5
    others = {"a": {"evaluation": "matching", "figures": {"ECE": "<b>"}}, "b": {"figures": 1}, "c": entry}
    (run / "eval.json").write_text(json.dumps({"evaluations": others}))
    assert "not measured" in bt.load(run, "cpu").calibration
    described = json.loads((exported / "config.json").read_text())
    for wrong in ("<b>", 2.0, {"shapes": "<b>"}, {"shapes": 1e400}, {"shapes": True}, {"shapes": -0.1}):
        described["bridgetower_train"]["calibration"] = wrong
        (exported / "config.json").write_text(json.dumps(described))
        assert "not measured" in bt.load(exported, "cpu").calibration


def test_an_index_is_refused_for_another_model(home, shapes_root, tmp_path, capsys):
    train_here(shapes_root, tmp_path / "other", "steps=1")
    search_here(home, f"index={home}/photos.parquet", f"run_dir={tmp_path}/other", "text=a ring", code=2)
    assert re.search(r"photos.parquet: is of another model \(.*run, step 2\)", capsys.readouterr().err)


def test_images_elsewhere_must_be_named(home, tmp_path, capsys, trained_run):
    index = shutil.copy(home / "photos.parquet", tmp_path / "photos.parquet")
    search_here(home, f"index={index}", "text=a ring", code=1)
    assert "its images are not there" in capsys.readouterr().err
    search_here(home, f"index={index}", "text=a ring", f"images={home}/photos")
    (tmp_path / "below").mkdir()
    keys = [f"images={home}/photos", f"out={tmp_path}/below/a.parquet"]
    assert main(["embed", f"run_dir={trained_run}", "device=cpu", *keys]) == 0
    capsys.readouterr()
    search_here(home, f"index={tmp_path}/below/a.parquet", "text=a ring", "top=2")
    assert "images   not shown" in capsys.readouterr().out
    search_here(home, f"index={tmp_path}/below/a.parquet", "text=a ring", "rerank=2", code=2)
    assert "needs the images of the index; give their folder in images=" in capsys.readouterr().err


def changed(path, out, about=None, **columns):
    """A copy of an index that says something else."""
    table = pq.read_table(path)
    noted = json.loads(table.schema.metadata[b"bridgetower_train"]) | (about or {})
    for name, column in columns.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, column(table[name].combine_chunks()))
    table = table.replace_schema_metadata({"bridgetower_train": json.dumps(noted)})
    pq.write_table(table, out, compression="none", use_dictionary=False)
    return out


@attack(78)
@pytest.mark.parametrize("key", ["../secret.jpg", "/etc/hostname", "link.jpg", "a\0b", "fifo.jpg"])
def test_an_index_shows_no_file_outside_its_images(home, model, tmp_path, key):
    folder = shutil.copytree(home / "photos", tmp_path / "photos")
    shutil.copy(home / "photos" / "1.jpg", tmp_path / "secret.jpg")
    (folder / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    os.mkfifo(folder / "fifo.jpg")
    keys = lambda column: pa.array([key, *column.to_pylist()[1:]])  # noqa: E731
    index = open_index(changed(home / "photos.parquet", tmp_path / "a.parquet", key=keys))
    search = Search(model, index, FolderImages(str(folder)))
    query = search.query("a ring")
    results = search.find(query, 10, 10)
    assert (results[-1].key, results[-1].match) == (key, None)
    hits = view(search, query, results).hits
    assert [hit.key for hit in hits if hit.image is None] == [key]
    assert hits[-1].drawn is None


@attack(78)
@pytest.mark.parametrize("folder", ["..", "../photos", "/", "photos/../../x", "link"])
def test_an_index_names_no_folder_outside_its_own(home, tmp_path, capsys, folder):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "link").symlink_to(home)
    index = changed(home / "photos.parquet", tmp_path / "a" / "i.parquet", {"folder": folder})
    search_here(home, f"index={index}", "text=a ring", code=1)
    assert "outside" in capsys.readouterr().err
    index = changed(home / "corpus.parquet", home / "i.parquet", {"folder": "data", "corpus": f"../{tmp_path}"})
    search_here(home, f"index={index}", "text=a ring", code=1)
    assert "outside" in capsys.readouterr().err


@attack(78)
def test_a_model_that_an_index_names_is_contacted_nowhere(home, tmp_path, capsys):
    for name in ("someone/model", "http://127.0.0.1:9/x", "hf://a/b"):
        index = changed(home / "texts.parquet", tmp_path / "i.parquet", {"model": name})
        search_here(home, f"index={index}", "text=a ring", code=2)
        assert f"run_dir: the index is of {name}, which is no folder here" in capsys.readouterr().err


@attack(79)
def test_an_index_takes_no_more_memory_than_its_file(home, tmp_path):
    source = home / "texts.parquet"
    long = "x" * 100_000
    rows = 20_000
    about = json.loads(pq.read_table(source).schema.metadata[b"bridgetower_train"])
    keys = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([long])).cast(pa.string())
    unit = np.zeros((rows, 2), np.float32)
    unit[:, 0] = 1
    made = pa.table({
        "key": keys, "row": pa.array(np.arange(rows)), "embedding": pa.FixedSizeListArray.from_arrays(unit.reshape(-1), 2),
    })  # fmt: skip
    noted = {"bridgetower_train": json.dumps(about | {"width": 2})}
    pq.write_table(
        made.replace_schema_metadata(noted), tmp_path / "keys.parquet", use_dictionary=["key"], compression="none"
    )
    assert (tmp_path / "keys.parquet").stat().st_size < 1 << 20
    with pytest.raises(FileError, match="has longer keys than its file can hold"):
        open_index(tmp_path / "keys.parquet")
    wide = np.zeros((rows, 512), np.float32)
    wide[:, 0] = 1
    made = pa.table({
        "key": pa.array(["k"] * rows), "row": pa.array(np.arange(rows)),
        "embedding": pa.FixedSizeListArray.from_arrays(wide.reshape(-1), 512),
    })  # fmt: skip
    noted = {"bridgetower_train": json.dumps(about)}
    pq.write_table(made.replace_schema_metadata(noted), tmp_path / "wide.parquet", compression="zstd")
    with pytest.raises(FileError, match=r"more than its .* bytes hold"):
        open_index(tmp_path / "wide.parquet")


def _nulls(column):
    return pa.array([None, *column.to_pylist()[1:]], column.type)


@attack(79)
@pytest.mark.parametrize(
    ("about", "columns", "part"),
    [
        ({"width": 0}, {}, "has embeddings of 0 numbers"),
        ({"width": 1 << 20}, {}, "has embeddings of 1,048,576 numbers"),
        ({"width": 511}, {}, "does not have the columns"),
        ({"format": 2}, {}, "is of another version"),
        ({"kind": "pictures"}, {}, "is of another version"),
        ({"dtype": "object"}, {}, "is of another version"),
        ({"width": "512"}, {}, "width: "),
        ({"folder": 3}, {}, "folder: "),
        ({}, {"key": lambda column: pa.array(range(len(column)))}, "does not have the columns"),
        ({}, {"key": _nulls}, "has empty cells"),
        ({}, {"row": _nulls}, "has empty cells"),
        (
            {},
            {
                "embedding": lambda c: pa.FixedSizeListArray.from_arrays(
                    pa.array(np.full(512 * len(c), np.nan, np.float32)), 512
                )
            },
            "whose length is not 1",
        ),
    ],
)
def test_what_is_no_index_is_refused(home, tmp_path, about, columns, part):
    with pytest.raises(FileError, match=re.escape(part)):
        open_index(changed(home / "texts.parquet", tmp_path / "i.parquet", about, **columns))


@attack(79)
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_index_is_one_line(home, tmp_path, kind):
    for name in ("texts.parquet", "half.npy"):
        whole = (home / name).read_bytes()
        shutil.copy(home / "half.keys.parquet", tmp_path / "half.keys.parquet")
        for place in (0, 1, 4, 9, 100, len(whole) // 2, len(whole) - 700, len(whole) - 9, len(whole) - 1):
            (tmp_path / name).write_bytes(DAMAGE[kind](whole, place))
            with contextlib.suppress(FileError):
                open_index(tmp_path / name)


@attack(9)
def test_other_files_are_no_index(home, tmp_path):
    np.save(tmp_path / "pickled.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    np.save(tmp_path / "flat.npy", np.zeros(4, np.float32))
    (tmp_path / "text.npy").write_text("text")
    (tmp_path / "text.parquet").write_text("text")
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / "plain.parquet")
    shutil.copy(home / "half.npy", tmp_path / "alone.npy")
    shutil.copy(home / "half.npy", tmp_path / "texts.npy")
    changed(home / "texts.parquet", tmp_path / "texts.keys.parquet")
    for path in [*sorted(tmp_path.glob("*.npy")), tmp_path / "text.parquet", tmp_path / "plain.parquet"]:
        with pytest.raises(FileError, match=path.name):
            open_index(path)
    for name in ("none.parquet", "none.npy", "index.json"):
        with pytest.raises(ConfigError, match=name):
            open_index(tmp_path / name)


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        ([], "text: give one of text= and image="),
        (["text=a", "image=b"], "text: give one of text= and image="),
        (["text=a", "serve=1"], "serve=1: asks in the page"),
        (["serve=65536"], "serve=65536: must be a port"),
        (["text=a", "top=0"], "top=0: must be"),
        (["image=nowhere.jpg"], "image=nowhere.jpg: No such file"),
        (["text=a", "images=nowhere"], "its images are not there"),
    ],
)
def test_wrong_keys_are_named(home, capsys, keys, part):
    search_here(home, f"index={home}/photos.parquet", *keys, code=1 if "images=nowhere" in keys else 2)
    assert part in capsys.readouterr().err


def test_the_index_says_of_its_model_what_the_run_says(home, trained_run):
    about = open_index(home / "corpus.parquet").about
    assert (about.model, about.step, about.folder, about.corpus) == (str(trained_run), 2, "data", "shapes_heldout")
    assert yaml.safe_load((trained_run / "config.yaml").read_text())["objective"]["itc_dim"] == about.width
