"""Weights, and what lies beside them, written by others: refused with one line, at once, and no code of theirs runs."""

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from helpers import pretraining, run_ranks
from safetensors.torch import save_file

from bridgetower_train.config import InitConfig
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.distributed import Ranks
from bridgetower_train.errors import ConfigError
from bridgetower_train.weights.initial import start_weights
from bridgetower_train.weights.read import read_tensors
from tests.hostile.attacks import attack
from tests.tiny import SMALL
from tests.weights.conftest import ALL_LOSSES, clip_vision, openai_names, roberta


def refusal(path: Path) -> str:
    """The one line with which a file of weights is refused."""
    with pytest.raises(ConfigError) as caught:
        read_tensors(path, f"init.checkpoint={path}")
    said = str(caught.value)
    assert said.startswith(f"init.checkpoint={path}: ")
    assert str(path) in said.removeprefix(f"init.checkpoint={path}")
    assert "\n" not in said
    return said


# --- pickles


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def archive(path: Path, members: dict[str, bytes], compressed: bool = False) -> Path:
    """A zip as torch writes them."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as file:
        for name, content in {"data.pkl": b"", "version": b"3\n", "byteorder": b"little", **members}.items():
            file.writestr(f"x/{name}", content)
    return path


def script(path: Path, pickled: bytes, **members: bytes) -> Path:
    """A TorchScript archive whose modules are what `pickled` makes."""
    return archive(path, {"data.pkl": pickled, "constants.pkl": b"\x80\x02).", "data/0": b"\0\0\x80\x3f", **members})


PAYLOADS: dict[str, Callable[[Path, bytes], object]] = {
    "bare": lambda path, code: path.write_bytes(code),
    "zip": lambda path, code: archive(path, {"data.pkl": code}),
    "TorchScript": script,
    "TorchScript, beside a module": lambda path, code: script(path, MODULE + b"(" + text("x") + code[2:-1] + b"ub."),
}


@attack(38)
@pytest.mark.parametrize("protocol", [2, 4], ids=["GLOBAL", "STACK_GLOBAL"])
@pytest.mark.parametrize("form", PAYLOADS)
def test_no_code_of_a_pickle_runs(tmp_path, form, protocol):
    source, trace = tmp_path / "x.ckpt", tmp_path / "executed"
    code = pickle.dumps(Payload(trace), protocol)
    PAYLOADS[form](source, code)
    refusal(source)
    assert not trace.exists()
    pickle.loads(code)
    assert trace.exists(), "the payload works"


@attack(38)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_no_code_runs_beside_good_weights(tmp_path, zipped):
    source, trace = tmp_path / "x.ckpt", tmp_path / "executed"
    content = {"state_dict": openai_names(clip_vision()), "x": Payload(trace)}
    torch.save(content, source, _use_new_zipfile_serialization=zipped)
    assert "only tensors are read" in refusal(source)
    assert not trace.exists()


@attack(38)
@pytest.mark.parametrize("name", ["__torch__ os\nsystem", "posix\nsystem", "__torch__.os system\nsystem", "os\nsystem"])
def test_names_of_modules_do_not_become_functions(tmp_path, name):
    trace = tmp_path / "executed"
    code = b"\x80\x02c" + name.encode() + b"\n" + text(f"touch {trace}") + b"\x85R."
    with suppress(ConfigError):  # what stands for a module takes all arguments
        assert read_tensors(script(tmp_path / "x.pt", code), "init.vision=x") == {}
    assert not trace.exists()


# --- TorchScript

MODULE = b"\x80\x02c__torch__\nM\n)\x81}"
"""A module; its attributes follow, then `b`."""

TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\1tQ"
    b"K\0K\1\x85K\1\x85\x89ccollections\nOrderedDict\n)RtR"
)


def text(value: str) -> bytes:
    """A pickled string."""
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def module(*attributes: tuple[str, bytes]) -> bytes:
    """A pickled module."""
    return MODULE[2:] + b"(" + b"".join(text(name) + value for name, value in attributes) + b"ub"


def doubled(levels: int) -> bytes:
    """Modules of which each has the one below twice."""
    inner = module(("weight", TENSOR)) + b"r" + (0).to_bytes(4, "little")
    for level in range(1, levels + 1):
        again = b"j" + (level - 1).to_bytes(4, "little")
        inner = module(("a", inner), ("b", again)) + b"r" + level.to_bytes(4, "little")
    return b"\x80\x02" + inner + b"."


@attack(39)
@pytest.mark.parametrize("levels", [10, 100])
def test_shared_modules_are_read_once(tmp_path, levels):
    path = script(tmp_path / "x.pt", doubled(levels))
    tensors = read_tensors(path, "init.vision=x")
    assert list(tensors) == ["a." * levels + "weight"]
    assert tensors["a." * levels + "weight"].tolist() == [1.0]


@attack(40)
def test_a_module_that_contains_itself_is_refused(tmp_path):
    inner = module(("a", b"j\1\0\0\0"))
    looped = b"\x80\x02c__torch__\nM\n)\x81r\1\0\0\0}(" + text("b") + inner + b"ub."
    assert "a module in it contains itself" in refusal(script(tmp_path / "x.pt", looped))


@attack(40)
@pytest.mark.parametrize("kind", ["TorchScript", "zip"])
def test_an_archive_that_would_inflate_is_refused(tmp_path, kind):
    path, weights = tmp_path / "x.pt", {"data/0": bytes(30 << 20), "data.pkl": b"\x80\x02" + TENSOR + b"."}
    archive(path, weights | ({"constants.pkl": b""} if kind == "TorchScript" else {}), compressed=True)
    assert path.stat().st_size < 50_000
    assert "it would take 31,457," in refusal(path)


@pytest.mark.parametrize("kind", ["expanded", "meta", "sparse", "no names"])
def test_tensors_that_are_not_in_the_file_are_refused(tmp_path, kind):
    content = {
        "expanded": {"a": torch.zeros(1).expand(1 << 20, 1 << 20)},
        "meta": {"a": torch.zeros(1 << 40, device="meta")},
        "sparse": {"a": torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1), (1 << 40,))},
        "no names": {(("a",),): torch.zeros(1)},
    }[kind]
    torch.save(content, tmp_path / "x.pt")
    refusal(tmp_path / "x.pt")


# --- safetensors and indices


def safetensors(header: bytes, size: int | None = None, data: bytes = bytes(16)) -> bytes:
    return (len(header) if size is None else size).to_bytes(8, "little") + header + data


HEADERS = {
    "shape": safetensors(b'{"a":{"dtype":"F32","shape":[99],"data_offsets":[0,16]}}'),
    "offsets": safetensors(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[16,32]}}'),
    "backwards": safetensors(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[16,0]}}'),
    "overlap": safetensors(
        b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
    ),
    "huge shape": safetensors(b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,16]}}'),
    "header of 2^63": safetensors(b"{}", 1 << 63),
    "nesting": safetensors(b'{"a":' + b"[" * 100_000 + b"}"),
    "no object": safetensors(b"[]"),
    "empty": b"",
}


@attack(41)
@pytest.mark.parametrize("header", HEADERS)
def test_safetensors_that_lie_are_refused(tmp_path, header):
    (tmp_path / "x.safetensors").write_bytes(HEADERS[header])
    assert "cannot be read" in refusal(tmp_path / "x.safetensors")


@attack(43)
@pytest.mark.parametrize(
    "index",
    [
        b'{"weight_map": {"a": "../../etc/passwd"}}', b'{"weight_map": {"a": "/etc/passwd"}}', b'{"weight_map": {"a": ".."}}',
        b'{"weight_map": {"a": "x\\u0000"}}', b'{"weight_map": {"a": 1}}', b'{"weight_map": []}', b'{"weight_map": {}}', b"[]",
        b"", b"[" * 200_000, b'{"weight_map": ' + b"9" * 5000 + b"}", b"\xff",
    ],
    ids=lambda index: index[:40].decode(errors="replace"),
)  # fmt: skip
def test_an_index_that_leads_elsewhere_is_refused(tmp_path, index):
    (tmp_path / "model.safetensors.index.json").write_bytes(index)
    with pytest.raises(ConfigError) as caught:
        read_tensors(tmp_path, "init.vision=x")
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@attack(44)
def test_a_planted_folder_is_named_and_its_pickle_refused(build, tmp_path, monkeypatch):
    """A folder of that name is taken before the hub is asked."""
    monkeypatch.chdir(tmp_path)
    planted, trace = Path("openai/clip-vit-base-patch16"), tmp_path / "executed"
    planted.mkdir(parents=True)
    torch.save({"a": Payload(trace)}, planted / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"openai/clip-vit-base-patch16/pytorch_model\.bin cannot be read"):
        build(vision=planted)
    assert not trace.exists()


def test_what_is_no_file_is_not_waited_for(tmp_path):
    for name in ("x.safetensors", "x.ckpt"):
        os.mkfifo(tmp_path / name)
        assert "is not a regular file" in refusal(tmp_path / name)


# --- what lies beside them


def failures(rank: int, sources: list[Path], tokenizer: str) -> list[str]:
    """What a rank says of the weights in each of the folders, which only rank 0 can see."""
    text = CaptionTokenizer.load(tokenizer)
    task = pretraining(replace(SMALL, vocab_size=text.vocab_size), ALL_LOSSES)
    said = []
    for source in sources:
        init = InitConfig(text=str(source) if rank == 0 else "/nowhere")
        with pytest.raises(ConfigError) as caught:
            start_weights(task, init, text, Ranks(rank, dist.get_world_size(), dist.group.WORLD))
        said.append(str(caught.value))
    return said


def tokenizer_with(path: Path, token: str, number: int) -> bytes:
    """A tokenizer in which a token has another id."""
    content = json.loads(path.read_text())
    content["model"]["vocab"][token] = number
    return json.dumps(content).encode()


@attack(53)
@attack(54)
def test_what_is_broken_beside_the_weights_ends_every_rank_with_one_line(text, tmp_path):
    """Only rank 0 reads; no rank waits for another."""
    broken: dict[str, list[bytes]] = {
        "tokenizer.json": [b"", b"[]", b'{"model": ' + b"[" * 100_000, tokenizer_with(text.path, "zz", 3_000_000_000)],
        "vocab.json": [b"", b"[]", b'{"a": "x"}', b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}", b"\xff"],
        "config.json": [b"", b"[]", b"[" * 100_000],
        "model.safetensors": [b"", HEADERS["nesting"]],
        "state.json": [b"", b"[]", b'{"step": 1}'],
    }
    sources, named = [], []
    for name, contents in broken.items():
        for content in contents:
            source = tmp_path / str(len(sources))
            roberta(text.vocab_size).save_pretrained(source) if not sources else source.mkdir()
            if sources:
                for part in ("model.safetensors", "config.json"):
                    os.link(sources[0] / part, source / part)
                (source / name).unlink(missing_ok=True)
            (source / name).write_bytes(content)
            sources.append(source)
            named.append("manifest.json" if name == "state.json" else name)
    first, second = run_ranks(failures, 2, sources, str(text.path))
    assert first == second
    for source, name, said in zip(sources, named, first, strict=True):
        assert said.startswith(f"init.text={source}: ")
        assert name in said
        assert "\n" not in said


@pytest.mark.parametrize("part", ["text_config", "vision_config"])
def test_a_description_of_another_shape_is_refused(build, text, tmp_path, part):
    roberta(text.vocab_size).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({part: [1], "hidden_size": "x", "num_attention_heads": "9"}))
    with pytest.raises(ConfigError, match=r"config\.json"):
        build(checkpoint=tmp_path)


@pytest.mark.parametrize(
    "name", ["embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight", "encoder.layer.0.output.dense.bias"]
)  # fmt: skip
def test_tensors_of_any_number_of_dimensions_are_named(build, text, tmp_path, name):
    weights = dict(roberta(text.vocab_size).state_dict())
    for shape in ((), (0,), (3, 1, 2)):
        save_file(weights | {name: torch.zeros(shape)}, tmp_path / "model.safetensors")
        with pytest.raises(ConfigError, match="does not fit the model"):
            build(text=tmp_path)


def test_image_towers_of_any_number_of_dimensions_are_named(build, tmp_path):
    weights = {name: tensor.contiguous() for name, tensor in clip_vision().state_dict().items()}
    for name in [n for n in weights if "position_embedding" in n or "layers.0.self_attn.q_proj" in n or "patch" in n]:
        for shape in ((), (0,), (5,), (3, 1, 2)):
            save_file(weights | {name: torch.zeros(shape)}, tmp_path / "x.safetensors")
            with pytest.raises(ConfigError, match="does not fit the model"):
                build(vision=tmp_path / "x.safetensors")
