"""Synthetic photographs and captions."""

import numpy as np
import simplejpeg

from bridgetower_train.data.shards import open_corpus
from data_prep.shapes.synthetic import synthetic_corpus, synthetic_photo


def test_images_weigh_and_differ_as_photographs_do():
    jpegs = [synthetic_photo(number, 294) for number in range(6)]
    assert all(30_000 < len(jpeg) < 62_000 for jpeg in jpegs)
    assert len(set(jpegs)) == 6
    shapes = {simplejpeg.decode_jpeg(jpeg).shape for jpeg in jpegs}
    assert shapes == {(294, 392, 3), (392, 294, 3)}
    assert all(np.std(simplejpeg.decode_jpeg(jpeg)) > 30 for jpeg in jpegs)


def test_a_corpus_has_all_its_captions(tmp_path):
    synthetic_corpus(tmp_path / "made", 32, images=3, records=16, captions=50)
    corpus = open_corpus(str(tmp_path), "made")
    assert corpus.index["captions"].tolist() == [50] * 16  # equal ones would have been dropped
    images = [bytes(corpus.read(row).image) for row in range(6)]
    assert images[:3] == images[3:]
    assert len(set(images)) == 3
