"""Pickles that corrupt the memory of torch before 2.10, however new the torch here is."""

import io
import pickle
import tarfile
import zipfile
from collections import OrderedDict

import pytest
import torch

from bridgetower_train.errors import ConfigError
from bridgetower_train.weights import pickles, read
from bridgetower_train.weights.pickles import check_pickle


@pytest.fixture
def old_torch(monkeypatch):
    monkeypatch.setattr(pickles, "CHECKED_BY_TORCH", False)


def saved(path, content, **options):
    torch.save(content, path, **options)
    return path


def rewritten(path, change):
    """The archive with `change(pickle)` in place of its pickle."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, change(data) if name.endswith("/data.pkl") else data)
    return path


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.part = torch.nn.Linear(3, 2).half()
        self.register_buffer("count", torch.zeros(2, dtype=torch.int64))

    def forward(self, x):
        return self.part(x)


@pytest.mark.usefixtures("old_torch")
@pytest.mark.parametrize("new", [True, False])
def test_state_dicts_are_read(tmp_path, new):
    weights = Model().state_dict()
    content = {"state_dict": weights, "epoch": 3, "names": ["a"], "shape": (1, 2), "nested": OrderedDict(a={1: 2.0})}
    path = saved(tmp_path / "x.pt", content, _use_new_zipfile_serialization=new)
    tensors = read.read_tensors(path, "init.text=x")
    assert list(tensors) == list(weights)
    assert all(torch.equal(tensors[name], weights[name]) for name in weights)
    parameters = saved(tmp_path / "y.pt", dict(Model().named_parameters()), _use_new_zipfile_serialization=new)
    assert len(read.read_tensors(parameters, "init.text=y")) == 2


@pytest.mark.usefixtures("old_torch")
def test_torchscript_is_read(tmp_path):
    torch.jit.script(Model()).save(tmp_path / "x.pt")
    assert set(read.read_tensors(tmp_path / "x.pt", "init.vision=x")) == set(Model().state_dict())


def item_of_a_tensor(pickled):
    """The pickle of {'a': tensor}, with an item of the tensor assigned once it is built."""
    assert pickled.endswith(b"s.")
    return pickled[:-2] + pickle.BININT1 + b"\0" + pickle.BININT1 + b"\x07" + pickle.SETITEM + b"s."


@pytest.mark.usefixtures("old_torch")
def test_items_of_a_tensor_are_not_assigned(tmp_path):
    path = rewritten(saved(tmp_path / "x.pt", {"a": torch.zeros(4)}), item_of_a_tensor)
    with pytest.raises(TypeError, match="item assignment"):
        check_pickle(io.BytesIO(path.read_bytes()))
    with pytest.raises(ConfigError, match=r"init\.text=x: .*x\.pt cannot be read: TypeError"):
        read.read_tensors(path, "init.text=x")


@pytest.mark.usefixtures("old_torch")
def test_a_storage_is_not_longer_than_its_file(tmp_path):
    path = saved(tmp_path / "x.pt", {"a": torch.zeros(4)})
    check_pickle(io.BytesIO(path.read_bytes()))
    longer = rewritten(path, lambda pickled: pickled.replace(b"cpuq\x06K\x04", b"cpuq\x06K\x40"))
    with pytest.raises(pickle.UnpicklingError, match="storage 0 is shorter than its tensors"):
        check_pickle(io.BytesIO(longer.read_bytes()))


@pytest.mark.usefixtures("old_torch")
def test_nothing_in_a_pickle_runs(tmp_path):
    class Runs:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    check_pickle(io.BytesIO(saved(tmp_path / "x.pt", {"a": Runs()}).read_bytes()))
    with pytest.raises(ConfigError, match="refers to the Python object"):
        read.read_tensors(tmp_path / "x.pt", "init.text=x")
    assert not (tmp_path / "ran").exists()


@pytest.mark.usefixtures("old_torch")
def test_an_old_tar_of_tensors_is_refused(tmp_path):
    """Of before torch 0.1.10; until 2.6 code in one ran (CVE-2025-32434)."""
    with tarfile.open(tmp_path / "x.pt", "w") as tar:
        for name in ("storages", "tensors", "pickle"):
            tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(ConfigError, match=r"x\.pt cannot be read: UnpicklingError"):
        read.read_tensors(tmp_path / "x.pt", "init.text=x")


def test_a_new_torch_checks_for_itself(tmp_path):
    if pickles.CHECKED_BY_TORCH:
        path = rewritten(saved(tmp_path / "x.pt", {"a": torch.zeros(4)}), item_of_a_tensor)
        with pytest.raises(pickle.UnpicklingError):
            torch.load(io.BytesIO(path.read_bytes()), weights_only=True)
