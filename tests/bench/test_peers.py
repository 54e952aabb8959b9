"""Other loaders in `bench data`: those that are installed give our images and captions; of the others a line says so."""

from contextlib import ExitStack
from importlib import import_module

import pytest
import torch

from bridgetower_train.bench import peers
from bridgetower_train.bench.peers import PEERS, Source, check, open_peers
from bridgetower_train.data.image import decode
from bridgetower_train.data.shards import open_corpus
from bridgetower_train.data.text import CaptionTokenizer
from data_prep.shapes.synthetic import synthetic_corpus, synthetic_tokenizer

SIZE = 64


@pytest.fixture
def source(tmp_path):
    """Eight images of `SIZE` x `SIZE`."""
    synthetic_corpus(tmp_path / "corpora" / "small", SIZE, images=8, records=8)
    folder = tmp_path / "written"
    folder.mkdir()
    text = CaptionTokenizer(synthetic_tokenizer())
    return Source(open_corpus(str(tmp_path / "corpora"), "small"), text, SIZE, 4, folder)


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_gives_the_same_images_and_captions(name, source):
    try:
        module = import_module(f"{peers.__name__}.{name}")
    except ImportError as error:
        pytest.skip(f"{error}; pip install '.[peers]'")
    images, ids = next(batches := module.batches(source))
    check(source, (images, ids))
    records = [source.corpus.read(row) for row in range(8)]
    for image, row in zip(images, ids, strict=True):
        (record,) = (record for record in records if source.ids(record.captions[0]).equal(row))
        if name != "webdataset_float32":
            expected = source.square_of(torch.from_numpy(decode(record.image)).permute(2, 0, 1))
            assert (image.float() - expected.float()).abs().mean() < 4  # FFmpeg's colours are a little different
    del batches


def test_of_a_peer_that_cannot_be_used_a_line_says_so(source, monkeypatch, capsys):
    monkeypatch.setattr(peers, "PEERS", {"webdataset_uint8": "webdataset", "absent": "a-package"})
    with ExitStack() as stack:
        takes = open_peers(source, stack)
        assert list(takes) == ["webdataset_uint8"]
        assert takes["webdataset_uint8"](2) > 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("absent: not measured: ModuleNotFoundError: ")
    assert line.endswith("(pip install 'bridgetower-train[peers]' has a-package)")
