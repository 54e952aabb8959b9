"""Files of tensors, as the safetensors library reads them."""

import hashlib
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from helpers import run_ranks
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from bridgetower_train.distributed import Ranks
from bridgetower_train.engines.tensor_file import shared_tensors, write_tensors
from bridgetower_train.errors import CheckpointError
from tests.hostile.attacks import attack

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


SHAPES = {"matrix": torch.Size([70, 110]), "scalar": torch.Size([]), "vector": torch.Size([4000])}


def everything_read(rank: int, path: Path, ends: list[int]) -> list[dict[str, torch.Tensor] | str]:
    """What a rank gets of the file, or why not, each time that its end is moved while it is open. Only rank 0 has it."""
    ranks = Ranks(rank, dist.get_world_size(), dist.group.WORLD)
    found: list[dict[str, torch.Tensor] | str] = []
    for end in ends:
        try:
            with shared_tensors(path if ranks.is_main else Path("not here"), ranks) as read:
                if ranks.is_main:
                    with path.open("r+b") as file:
                        file.truncate(end)
                found.append({name: read(name, shape) for name, shape in SHAPES.items()})
        except CheckpointError as error:
            found[-1] = str(error)
    return found


def test_every_rank_gets_what_rank_0_reads_or_why_it_cannot(tmp_path):
    tensors = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    path = tmp_path / "x.safetensors"
    write_tensors(path, tensors)
    size = path.stat().st_size
    first, *others = run_ranks(everything_read, 3, path, [size, size - 1, 20_000, 4, 4])
    whole, *damaged = first
    assert all(torch.equal(whole[name], tensors[name]) for name in tensors)
    for other in others:
        assert all(torch.equal(other[0][name], tensors[name]) for name in tensors)
        assert other[1:] == damaged
    assert "ends within vector" in damaged[0]
    assert "ends within matrix" in damaged[1]
    assert len(damaged) == 4
    assert all(str(path) in said for said in damaged)


def header(content: bytes, size: int | None = None) -> bytes:
    return (len(content) if size is None else size).to_bytes(8, "little") + content + bytes(99)


def entry(shape: str = "[70,110]", offsets: str = "[0,4]") -> bytes:
    return f'{{"matrix":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}'.encode()


@attack(42)
@pytest.mark.parametrize(
    "content",
    [
        header(b"{}", 1 << 63), header(b"{}", (1 << 64) - 1), header(b"{}", 99_999_999), header(b"[" * 200_000), header(b"[]"),
        header(b'{"matrix": 3}'), header(b'{"matrix": {}}'), header(b'{"matrix": {"dtype": ' + b"9" * 5000 + b"}}"), b"", b"\1",
        header(entry("3")), header(entry(offsets="3")), header(entry(offsets="[]")), header(entry(offsets='["a",1]')),
        header(entry(offsets=f"[{10**30},1]")), header(entry(offsets="[-99999,1]")),
        header(entry(offsets="[4611686018427387904,1]")),
    ],
    ids=lambda content: repr(content[:60]),
)  # fmt: skip
def test_a_header_that_lies_is_refused(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_all(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def read_all(path: Path) -> None:
    with shared_tensors(path, Ranks(0, 1, None)) as read:
        for name, shape in SHAPES.items():
            read(name, shape)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"matrix": [70, 110], "scalar": []}, "does not contain vector"),
        ({**SHAPES, "extra": [1]}, "contains extra"),
        ({**SHAPES, "vector": [41]}, r"vector is F32 \[41\], the model's is F32 \[4000\]"),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_not_the_model_s_is_named(tmp_path, written, said):
    path = tmp_path / "x.safetensors"
    if written is not None:
        write_tensors(path, {name: torch.zeros(shape) for name, shape in written.items()})
    with pytest.raises(CheckpointError, match=f"{path}.*{said}"):
        read_all(path)
