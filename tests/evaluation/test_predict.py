"""`bridgetower predict`, and the attention that it draws."""

import pytest
import torch
from PIL import Image

from bridgetower_train.cli import main
from bridgetower_train.data.shards import open_corpus
from bridgetower_train.evaluation.attention import attention_over_images, words
from bridgetower_train.evaluation.base import open_model
from tests.training.runs import train_here


@pytest.fixture
def image(shapes_root, tmp_path):
    path = tmp_path / "image.jpg"
    path.write_bytes(open_corpus(str(shapes_root), "shapes").read(0).image)
    return path


def test_attention_is_what_the_layer_computes(trained_run):
    model, _ = open_model(str(trained_run), device="cpu")
    ids, mask = model.tokenizer.encode(["a red square left of a ring"], 24)
    pixels = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    layer = model.task.model.bridgetower.cross_modal_text_layers[-1].crossattention
    seen = {}
    layer.register_forward_pre_hook(lambda _, inputs: seen.update(keys=inputs[1]))
    layer.output.register_forward_pre_hook(lambda _, inputs: seen.update(mixed=inputs[0]))
    (patches,) = attention_over_images(model, pixels[None], ids[0], mask[0])
    assert patches.shape == (24, 2, 2)
    weights = torch.cat([1 - patches.flatten(1).sum(1, keepdim=True), patches.flatten(1)], 1)
    assert (weights > 0).all()
    with torch.no_grad():
        assert torch.allclose(weights @ layer.self.value(seen["keys"])[0], seen["mixed"][0], atol=1e-5)


def test_words_are_whole_and_without_punctuation(trained_run):
    text = open_model(str(trained_run), device="cpu")[0].tokenizer
    ids, mask = text.encode(["Zebras: a red-striped <mask>, it is."], 24)
    found = words(text, ids[0], mask[0])
    assert [word for word, _ in found if word != "<mask>"] == ["Zebras", "a", "redstriped", "it", "is"]
    assert [len(group) for word, group in found if word == "<mask>"] == [1]
    places = [place for _, group in found for place in group]
    assert places == sorted(set(places))


def test_one_image_and_some_texts(trained_run, image, tmp_path, capsys):
    out = tmp_path / "page.html"
    texts = "texts=['a red ring','a <mask> square']"
    assert (
        main(["predict", f"run_dir={trained_run}", f"image={image}", texts, f"out={out}", "top=3", "words=[ring]"]) == 0
    )
    printed = capsys.readouterr().out
    assert printed.count("similarity ") == printed.count("match ") == 2
    said = f"not measured; bridgetower eval matching run_dir={trained_run} measures it"
    assert said in printed
    assert said in out.read_text()
    assert printed.count("<mask>: ") == 1
    assert out.read_text().count('alt="attention of') == 1
    Image.open(image).save(tmp_path / "image.webp")
    assert (
        main(["predict", f"run_dir={trained_run}", f"image={tmp_path}/image.webp", texts, f"out={out}", "device=cpu"])
        == 0
    )
    assert out.read_text().count('alt="attention of') == 6


def test_a_run_answers_what_it_was_trained_for(shapes_root, image, tmp_path, capsys):
    run_dir = tmp_path / "run"
    keys = ["objective.mlm=0", "objective.itc=0", "steps=1"]
    train_here(shapes_root, run_dir, *keys)
    capsys.readouterr()
    keys = [f"run_dir={run_dir}", f"image={image}", "texts=['a <mask> ring']", f"out={tmp_path}/page.html"]
    assert main(["predict", *keys]) == 0
    printed = capsys.readouterr().out
    assert "match" in printed
    assert "similarity" not in printed
    assert "<mask>: " not in printed


def test_bad_images_and_texts_are_named(trained_run, image, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(image.read_bytes()[:300])
    for keys, part in (
        (["image=/nowhere.jpg", "texts=[a]"], "image=/nowhere.jpg: No such file"),
        ([f"image={broken}", "texts=[a]"], f"image={broken}: "),
        ([f"image={image}"], "texts=[]"),
        ([f"image={image}", "texts=['']"], "texts=['']"),
    ):
        assert main(["predict", f"run_dir={trained_run}", *keys]) == 2
        assert part in capsys.readouterr().err
    assert not (tmp_path / "prediction.html").exists()
