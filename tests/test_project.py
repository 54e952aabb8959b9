"""What a project has beside its code: a wheel that works outside the checkout, and files that say what is true."""

import ast
import itertools
import os
import re
import shutil
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest
import yaml
from PIL import Image

import bridgetower_train

ROOT = Path(__file__).parents[1]
SOURCES = ("bridgetower_train", "data_prep", "configs")
TINY = ("model.width=64", "model.image_size=32", "model.patch_size=16", "tensorboard=false")


def execute(command: list[str | Path], folder: Path, **env: str) -> str:
    """Run a command in `folder`, without the checkout on the path; its output."""
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    result = subprocess.run(
        list(map(str, command)), cwd=folder, env={**clean, **env}, capture_output=True, text=True, timeout=200
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    execute([sys.executable, *build], folder, PIP_DISABLE_PIP_VERSION_CHECK="1")
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_has_every_file_of_the_packages(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert archive.read(next(n for n in names if n.endswith("/LICENSE"))) == (ROOT / "LICENSE").read_bytes()
    list_files = ("git", "ls-files", "--cached", "--others", "--exclude-standard", *SOURCES)
    listed = subprocess.run(list_files, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no git checkout to compare with")
    files = {name for name in listed.stdout.split() if (ROOT / name).exists()}
    due = {f"bridgetower_train/{name}" if name.startswith("configs/") else name for name in files}
    assert {"bridgetower_train/py.typed", "bridgetower_train/pages/page.css", "bridgetower_train/pages/page.js"} <= due
    assert {name for name in names if ".dist-info/" not in name} == due


def test_the_wheel_prepares_and_trains_outside_the_checkout(wheel, tmp_path):
    """In an environment of its own that sees our dependencies but, by the order of its path, not the checkout."""
    environment = tmp_path / "environment"
    execute([sys.executable, "-m", "venv", "--without-pip", environment], tmp_path)
    python, command = environment / "bin" / "python", environment / "bin" / "bridgetower"
    install = ("-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    execute([sys.executable, *install], tmp_path, PIP_DISABLE_PIP_VERSION_CHECK="1")
    (site,) = environment.glob("lib/python*/site-packages")
    # A folder that a .pth names is searched, but .pth files in it, such as that of an editable installation, are not read.
    dependencies = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (site / "dependencies.pth").write_text("\n".join(dependencies))

    shown = "import bridgetower_train, data_prep; print(bridgetower_train.__file__, data_prep.__file__)"
    assert execute([python, "-c", shown], tmp_path).split() == [
        str(site / package / "__init__.py") for package in ("bridgetower_train", "data_prep")
    ]
    assert "prep shapes" in execute([command, "--help"], tmp_path)
    assert "run_dir: runs/demo" in execute([command, "train", "--cfg", "job", "experiment=demo"], tmp_path)
    execute([command, "prep", "shapes", "out=data", "records=32", "heldout=16", "size=32", "workers=1"], tmp_path)
    execute(
        [command, "train", "steps=2", "global_batch=8", "data.lanes=4", "run_dir=run", "device.name=cpu", *TINY],
        tmp_path,
    )
    execute([command, "report", "run_dir=run"], tmp_path)
    page = (tmp_path / "run" / "report.html").read_text()
    for name in ("page.css", "page.js"):  # which the page carries
        assert (ROOT / "bridgetower_train" / "pages" / name).read_text().strip()[:60] in page


def test_the_version_is_everywhere_the_same(wheel):
    assert wheel.name.split("-")[1] == bridgetower_train.__version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == bridgetower_train.__version__
    assert f"## [{bridgetower_train.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_pre_commit_hook_and_the_workflow_run_what_ci_runs():
    configured = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [hook["entry"] for repo in configured["repos"] for hook in repo["hooks"]] == ["make lint"]
    pytest.importorskip("pre_commit", reason="part of the extra lint")
    validate = ("-m", "pre_commit", "validate-config", ROOT / ".pre-commit-config.yaml")
    execute([sys.executable, *validate], ROOT)
    job = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["test"]
    assert {"run": "bash .ci/run"} in job["steps"]
    assert {"make lint", "make test"} <= set((ROOT / ".ci" / "run").read_text().splitlines())


def test_files_that_the_documents_name_exist():
    """A path in backticks from the root of the project, or a link from the document's own folder."""
    named = set()
    for document in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")):
        text = document.read_text()
        folders = "bridgetower_train|data_prep|configs|tests|docs|benchmarks|launch"
        named |= {(document.name, ROOT / path) for path in re.findall(rf"`((?:{folders})/[\w./-]*)`", text)}
        named |= {(document.name, document.parent / link) for link in re.findall(r"\]\(([\w./-]+)\)", text)}
    assert len(named) > 50
    assert {(document, str(path)) for document, path in named if not path.exists()} == set()


# Recipes of CONTRIBUTING.md.

FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def recipes() -> dict[str, list[tuple[str, str]]]:
    """Heading -> its (language, text) of fenced blocks."""
    _, *parts = re.split(r"^## (Add .*)$", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)
    return {
        heading: [(language, textwrap.dedent(block)) for _, language, block in FENCE.findall(text)]
        for heading, text in zip(parts[::2], parts[1::2], strict=True)
    }


def apply(block: str, root: Path) -> None:
    """Create the file that the block's first line names, or add its lines to the table that is named there."""
    head, content = block.split("\n", 1)
    path, _, table = head.removeprefix("# ").partition(", in ")
    if not table:
        assert not (root / path).exists(), f"{path} exists already"
        (root / path).write_text(content)
        return
    imports = [line for line in content.splitlines() if line.startswith("from ")]
    entries = [line for line in content.splitlines() if not line.startswith("from ")]
    lines = (root / path).read_text().splitlines()
    (row, column) = end_of(table, "\n".join(lines))
    lines[row] = f"{lines[row][:column].rstrip().rstrip(',')},{''.join(entries)}{lines[row][column:]}".lstrip(",")
    first = next(i for i, line in enumerate(lines) if line.startswith(("import ", "from ")))
    (root / path).write_text("\n".join(lines[:first] + imports + lines[first:]) + "\n")


def end_of(table: str, code: str) -> tuple[int, int]:
    """(row, column) of the brace that closes a module's dict."""
    for node in ast.parse(code).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == table for target in targets):
            return node.value.end_lineno - 1, node.value.end_col_offset - 1
    raise AssertionError(f"there is no {table}")


MLFLOW = """
import os

def said(text):
    with open(os.environ["MLFLOW_TRACKING_URI"], "a") as file:
        file.write(f"{text}\\n")

def start_run(run_name):
    said(run_name)

def log_metrics(metrics, step):
    assert all(isinstance(value, int | float) for value in metrics.values())
    said(step)

end_run = said
"""
"""As much of MLflow's functions as the recipe calls."""


def test_the_recipes_of_contributing_work(tmp_path, shapes_root):
    """Each file is created, each line added, and each command run, in a copy of the code and in the order of the page."""
    for name in SOURCES:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(shapes_root, tmp_path / "data")
    (tmp_path / "photographs").mkdir()
    for number in range(16):
        for bird, colour in {"blue_jay": "blue", "tawny_owl": "brown"}.items():
            Image.new("RGB", (400, 300), colour).save(tmp_path / "photographs" / f"{bird}_{number}.jpg")
    assert list(recipes()) == ["Add a corpus", "Add a task", "Add a device", "Add a command", "Add a tracker"]
    (tmp_path / "mlflow.py").write_text(MLFLOW)
    printed = []
    for language, block in itertools.chain.from_iterable(recipes().values()):
        if language != "sh":
            apply(block, tmp_path)
            continue
        for line in block.splitlines():
            arguments = line.split()[1:]
            if arguments[0] == "train" and "--cfg" not in arguments:
                arguments += TINY
            printed.append(
                execute(
                    [sys.executable, "-m", "bridgetower_train", *arguments],
                    tmp_path,
                    PYTHONPATH=str(tmp_path),
                    MLFLOW_TRACKING_URI="mlflow.txt",
                )
            )
    prepared, _, composed, _, _, device, progress, _ = printed
    assert "32 images" in prepared
    assert "birds: 1.0" in composed
    assert "acc_owl" in (tmp_path / "runs" / "owls" / "metrics.jsonl").read_text()
    assert "the CPU with PyTorch's own kernels" in device
    assert progress == "2\n"
    assert (tmp_path / "mlflow.txt").read_text().split() == ["tracked", "2", "FINISHED"]
