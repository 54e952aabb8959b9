"""The measures, on cases whose result is known."""

import io
import json
import math
import tarfile
import tempfile
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import simplejpeg
import torch
from helpers import run_config

from bridgetower_train.config import ModelConfig
from bridgetower_train.data.shards import open_corpus
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.errors import DataError
from bridgetower_train.evaluation.eval_set import EvalSet
from bridgetower_train.evaluation.masked_lm import masked_lm
from bridgetower_train.evaluation.matching import (
    area_under_curve,
    calibration_error,
    match_scores,
    matching,
    matching_accuracy,
)
from bridgetower_train.evaluation.ranking import recall
from bridgetower_train.evaluation.retrieval import similarities
from bridgetower_train.evaluation.words import probe_accuracy, probe_words
from data_prep.shapes.tokenizer import train_tokenizer
from data_prep.shards import index

COLOURS = ["red", "green", "blue"]
CAPTIONS = [["a red square", "red"], ["a green square left of a red square"], ["nothing"], ["the blue square"]]


STEP = 3
"""Between the grey values of images."""


def held_out(captions=CAPTIONS, broken=()) -> EvalSet:
    """Image i is one grey, of which `numbers` tells i; those in `broken` do not decode."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root, "grey")
        folder.mkdir()
        with tarfile.open(folder / "000000.tar", "w") as tar:
            for i, texts in enumerate(captions):
                jpeg = simplejpeg.encode_jpeg(np.full((16, 16, 3), STEP * (i + 1), np.uint8), 95)
                for name, data in ((f"{i:06d}.jpg", jpeg), (f"{i:06d}.json", json.dumps({"captions": texts}).encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        index.run(index.IndexConfig(root=str(folder)))
        damage(folder, broken)
        return EvalSet(open_corpus(root, "grey"), run_config(ModelConfig(image_size=16, patch_size=16))).load()


def damage(folder: Path, broken) -> None:
    """Replace these records' images by zeros, with their checksums."""
    rows, tar = np.load(folder / "index.npy"), bytearray((folder / "000000.tar").read_bytes())
    for row in rows[list(broken)]:
        start, size = int(row["jpg_offset"]), int(row["jpg_size"])
        tar[start : start + size] = bytes(size)
        captions = tar[int(row["json_offset"]) :][: int(row["json_size"])]
        rows["crc"][rows["jpg_offset"] == start] = crc32(captions, crc32(bytes(size)))
    np.save(folder / "index.npy", rows)
    (folder / "000000.tar").write_bytes(tar)


def numbers(pixels):
    """The number of each image; far beyond the last for grey ones that `blanked` made."""
    return (pixels[:, 0, 0, 0].long() + STEP // 2) // STEP - 1


@pytest.fixture(scope="module")
def text() -> CaptionTokenizer:
    return CaptionTokenizer(train_tokenizer([c for captions in CAPTIONS for c in captions] * 9, 400))


def test_what_does_not_decode_is_left_out():
    images = held_out(broken=[1])
    assert numbers(images.pixels).tolist() == [0, 2, 3]
    assert images.first == ["a red square", "nothing", "the blue square"]
    assert list(images.left_out) == ["000001"]
    assert numbers(images.read(slice(1, 3))[0]).tolist() == [2, 3]
    with pytest.raises(DataError, match=r"fewer than two usable images; left out: 3: 000000"):
        held_out(broken=[0, 1, 2])


def test_recall_counts_rows_and_columns():
    similarity = torch.tensor([[0.9, 0.1, 0.0, 0.0], [0.2, 0.1, 0.8, 0.0], [0.0, 0.0, 0.7, 0.0], [0.0, 0.5, 0.0, 0.6]])
    assert recall(similarity) == (0.75, 0.5)
    assert recall(similarity, k=2) == (0.75, 0.75)
    assert recall(similarity, group=2) == (0.75, 0.75)


def test_recall_of_chance():
    torch.manual_seed(0)
    image_to_text, text_to_image = recall(torch.randn(1280, 1280))
    assert image_to_text == pytest.approx(1 / 128, abs=0.01)
    assert text_to_image == pytest.approx(1 / 128, abs=0.01)


def test_a_model_that_cannot_tell_finds_nothing():
    assert recall(torch.ones(4, 4)) == (0.0, 0.0)


def test_probes_mask_each_word_once(text):
    probes = probe_words(text, held_out(), COLOURS, 16)
    assert probes.image.tolist() == [0, 1, 1, 3]
    assert [text.decode([token]) for token in probes.answer] == ["red", "green", "red", "blue"]
    assert [int((ids == text.mask).sum()) for ids in probes.ids] == [1] * 4
    rows = torch.arange(4)
    assert (probes.ids[rows, probes.position] == text.mask).all()
    assert probes.mask.sum(1).tolist() == (probes.ids != 1).sum(1).tolist()


class Knowing:
    """Reads the image's colour value: knows image 0's caption to be of image 0, and so on."""

    def __init__(self, text: CaptionTokenizer) -> None:
        self.text = text

    def embed_images(self, pixels):
        return torch.eye(8)[numbers(pixels)]

    def embed_texts(self, texts):
        own = [captions[0] for captions in CAPTIONS]
        return torch.eye(8)[[own.index(t) for t in texts]]

    def match(self, pixels, texts):
        own = [captions[0] for captions in CAPTIONS]
        return torch.tensor([float(n == own.index(t)) for n, t in zip(numbers(pixels), texts, strict=True)])

    def fill(self, pixels, ids, mask, position):
        red = self.text.tokenizer.token_to_id("Ġred")
        answers = {0: red, 1: self.text.tokenizer.token_to_id("Ġgreen"), 3: self.text.tokenizer.token_to_id("Ġblue")}
        return torch.nn.functional.one_hot(torch.tensor([answers.get(int(n), 0) for n in numbers(pixels)]), 400).float()


def test_a_model_that_knows_scores_full(text):
    model, data = Knowing(text), held_out()
    assert recall(similarities(model, data)) == (1.0, 1.0)
    assert matching_accuracy(model, data, batch=3) == 1.0
    probes = probe_words(text, data, COLOURS, 16)
    assert probe_accuracy(model, data, probes, batch=3) == 0.75
    assert probe_accuracy(model, data, probes, blank=True) == 0.0


def test_equal_captions_are_no_negatives(text):
    same = held_out([["a red square"], ["a red square"]])
    model = Knowing(text)
    model.match = lambda pixels, texts: torch.ones(len(texts))
    assert matching_accuracy(model, same) == 1.0


class Reading:
    """Knows every caption by its image's colour value, and nothing else."""

    def __init__(self, text, data):
        self.text = text
        self.model = type("Model", (), {"config": type("Config", (), {"max_text_len": 16})})
        self.ids = text.encode(data.first, 16)[0]

    def fill_all(self, pixels, ids, mask, positions):
        number = numbers(pixels)
        known = number < len(self.ids)
        right = self.ids[number.clamp(max=len(self.ids) - 1)].gather(1, positions)
        guess = torch.where(known[:, None], right, self.text.mask)
        return 10 * torch.nn.functional.one_hot(guess, self.text.vocab_size).float()


def test_masked_words_are_read_from_the_image(text):
    data = held_out([[f"{colour} {noun}"] for colour in COLOURS for noun in ("square", "circle", "nothing")] * 4)
    figures = masked_lm(Reading(text, data), data, 0.4, batch=5)
    assert figures["masked tokens"] > 20
    assert figures["accuracy"] == 1
    sure = 1 + (text.vocab_size - 1) * math.exp(-10)
    assert figures["perplexity"] == pytest.approx(sure)
    assert figures["accuracy, image blanked"] == 0
    assert figures["perplexity, image blanked"] == pytest.approx(math.exp(10) * sure)
    assert 0 < figures["accuracy, image swapped"] < 1
    assert figures == pytest.approx(masked_lm(Reading(text, data), data, 0.4))
    assert figures != pytest.approx(masked_lm(Reading(text, data), data, 0.4, seed=1))


def test_area_under_curve():
    truth = np.array([True, True, False, False, False])
    score = np.array([0.9, 0.4, 0.4, 0.1, 0.6])
    assert area_under_curve(score, truth) == pytest.approx((3 + 1.5) / 6)
    assert area_under_curve(1 - score, truth) == pytest.approx(1 - 4.5 / 6)
    assert math.isnan(area_under_curve(score, truth | True))


def test_calibration_error():
    truth = np.array([True, False, False, False, True])
    assert calibration_error(np.array([0.25] * 4 + [1.0]), truth) == pytest.approx(0)
    assert calibration_error(np.array([0.45] * 4 + [1.0]), truth) == pytest.approx(0.2 * 4 / 5)
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    assert calibration_error(p, rng.random(20_000) < p) < 0.02


def test_matching_figures(text):
    figures = matching(*match_scores(Knowing(text), held_out(), batch=3))
    assert figures == {"matching pairs": 4, "mismatching pairs": 4, "accuracy": 1, "AUC": 1, "ECE": 0}
