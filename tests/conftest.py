"""Fixtures for all tests."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from data_prep.shapes import corpus as shapes
from data_prep.shards import writer
from data_prep.source.image import prepare_jpeg
from tests.training.runs import Job, train_command

IMAGE_SIZE = 64

settings.register_profile("tests", deadline=None)  # how long an example takes is not for a test
settings.load_profile("tests")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with photographs and tokenizer beside the checkout."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"no {folder}: photographs and tokenizer lie beside the checkout")
    return folder


def image(number: int) -> Image.Image:
    """A smooth image with noise, different for each number, of shorter edge 64 and either orientation."""
    rng = np.random.default_rng(number)
    edges = (IMAGE_SIZE, IMAGE_SIZE + 8 * (number % 4))
    height, width = edges if number % 2 else edges[::-1]
    slope = np.linspace(0, 200, width)[None, :, None] * rng.random(3) + np.linspace(0, 50, height)[:, None, None]
    return Image.fromarray((slope + rng.integers(0, 8, (height, width, 3))).astype(np.uint8))


def write_corpus(root: Path, name: str = "small", records: int = 60, records_per_shard: int = 20) -> Path:
    """A corpus of synthetic images with 1 to 5 captions each; the folder that holds it."""
    captions = ([f"caption {i} of image {number}" for i in range(1 + number % 5)] for number in range(records))
    given = (
        (f"{n:06d}", prepare_jpeg(image(n), IMAGE_SIZE), texts, {"image_id": n}) for n, texts in enumerate(captions)
    )
    writer.write_corpus(root / name, IMAGE_SIZE, given, records_per_shard)
    return root


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root that holds the corpus `small`: 60 images, edge 64, in 3 shards; 180 captions. Do not write to it."""
    root = write_corpus(tmp_path_factory.mktemp("corpora"))
    assert json.loads((root / "small" / "manifest.json").read_text())["captions"] == 180
    return root


@pytest.fixture
def make_corpus() -> Callable[..., Path]:
    """`write_corpus(root, name, records, records_per_shard)`, for a test that needs a corpus of its own."""
    return write_corpus


@pytest.fixture(scope="session")
def jpeg() -> bytes:
    """A JPEG of 64 x 72 pixels."""
    return prepare_jpeg(image(1), IMAGE_SIZE)


@pytest.fixture(scope="session")
def make_tar() -> Callable[..., Path]:
    """`make_tar(path, {name: bytes} or [(name, bytes)], format)`: a tar as other tools write it."""

    def make(path: Path, members: Any, tar_format: int = tarfile.GNU_FORMAT) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w", format=tar_format) as tar:
            for name, data in members.items() if isinstance(members, dict) else members:
                header = tarfile.TarInfo(name)
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))
        return path

    return make


@pytest.fixture(scope="session")
def shapes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with `shapes` (96 images of 32 px), its tokenizer, and `shapes_heldout` (32). Do not write to it."""
    root = tmp_path_factory.mktemp("shapes")
    shapes.run(shapes.ShapesConfig(out=str(root), records=96, heldout=32, size=32, workers=1))
    return root


@pytest.fixture
def start(shapes_root):
    """Starts a run, with torchrun or by the command that is given; what still runs at the end of the test is killed."""
    jobs = []

    def start(
        run_dir: Path,
        *overrides: str,
        ranks: int = 1,
        command: list[str] | None = None,
        env: dict[str, str] | None = None,
        root: Path = shapes_root,
    ) -> Job:
        jobs.append(Job(command or train_command(ranks), root, run_dir, *overrides, env=env))
        return jobs[-1]

    yield start
    for job in jobs:
        if job.process.poll() is None:
            job.kill()


@pytest.fixture
def train(start):
    """Runs to the end and returns the output; the exit code must be `code`."""

    def train(run_dir: Path, *overrides: str, code: int = 0, **options) -> str:
        return start(run_dir, *overrides, **options).finish(code)

    return train


@pytest.fixture(scope="session")
def reference(shapes_root, tmp_path_factory):
    """`reference(*overrides, ranks=1)`: the folder of an undisturbed run, trained once in a session. Do not write to it."""
    folders: dict[tuple[str | int, ...], Path] = {}

    def reference(*overrides: str, ranks: int = 1) -> Path:
        key = (*overrides, ranks)
        if key not in folders:
            run_dir = tmp_path_factory.mktemp("reference") / "run"
            Job(train_command(ranks), shapes_root, run_dir, *overrides).finish()
            folders[key] = run_dir
        return folders[key]

    return reference
