"""Files of tensors, as the safetensors library reads them."""

import hashlib

import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from bridgetower_train.training.tensor_file import write_tensors

shapes = st.lists(st.integers(0, 5), max_size=3)


@given(shapes=st.dictionaries(st.text(max_size=8).filter(lambda name: name != "__metadata__"), shapes, max_size=6))
def test_the_library_reads_back_what_was_written(tmp_path_factory, shapes):
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()}
    path = tmp_path_factory.mktemp("tensors") / "x.safetensors"
    digest = write_tensors(path, tensors)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    read = load_file(path)
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    with safe_open(path, "pt") as file:
        assert not file.metadata()
