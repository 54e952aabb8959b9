"""The table of versions, and that it is the one that is used."""

import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from bridgetower_train.devices.gaudi_versions import STACKS, generation_of, stack_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("software", "torch"),
    [("1.21.1.16", "2.6"), ("1.23.0.695", "2.9"), ("1.24.0.1007", "2.10"), ("1.24.1.482", "2.11"), ("1.24.2", "2.11")],
)
def test_a_release_has_the_stack_of_its_line(software, torch):
    assert stack_of(software).torch == torch


@pytest.mark.parametrize("software", ["1.19.0.561", "1.25.0", "2.0"])
def test_a_release_outside_the_table_has_none(software):
    assert stack_of(software) is None


def test_the_first_generation_ends_with_1_21():
    assert [s.software for s in STACKS if 1 in s.generations] == ["1.20.0", "1.21.0"]
    assert all({2, 3} <= set(s.generations) for s in STACKS)


def test_the_table_ascends():
    assert list(STACKS) == sorted(STACKS, key=lambda s: Version(s.software))


@pytest.mark.parametrize(
    ("board", "generation"),
    [("HL-205", 1), ("HL-225", 2), ("HL-225H", 2), ("HL-325L", 3), ("HL-338", 3), ("HL-999", None), ("", None)],
)
def test_boards(board, generation):
    assert generation_of(board) == generation


def vendor_packages() -> dict[str, list[str]]:
    """Package -> the versions that images of the table carry, as far as public lists and pins say.

    numpy, tensorboard, protobuf, PyYAML, fsspec and tqdm: lists of 1.15 and 1.24.0 images; numpy 1.23.5 is what the vendor's own
    packages still pin in 1.20 below Python 3.12. Pillow is left out: ours replaces theirs, which is Pillow-SIMD.
    """
    return {
        "torch": [f"{s.torch}.0" for s in STACKS] + ["2.10.0a0+gitc1e5ed4", "2.6.0a0+git30ac7d1"],
        "numpy": ["1.23.5", "1.26.4", "2.2.6"],
        "tensorboard": ["2.11.2", "2.20.0"],
        "pyyaml": ["6.0", "6.0.2"],
        "fsspec": ["2024.6.1", "2025.3.0"],
        "tqdm": ["4.66.5", "4.67.1"],
        "tokenizers": ["0.21.0", "0.21.4", "0.22.0"],  # those of transformers 4.51 and 4.55
        "safetensors": ["0.4.4", "0.6.2"],
        "packaging": ["24.1", "25.0"],
        "transformers": ["4.51.3", "4.55.0", "4.55.4"],
    }


def declared() -> dict[str, Requirement]:
    """Our dependencies, those of the tests included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + project["optional-dependencies"]["test"]
    return {r.name.lower(): r for r in map(Requirement, lines)}


@pytest.mark.parametrize(("package", "found"), [(p, v) for p, versions in vendor_packages().items() for v in versions])
def test_our_ranges_admit_what_the_images_carry(package, found):
    """Otherwise pip would upgrade it under the vendor's feet, or the image would not build."""
    assert declared()[package].specifier.contains(found, prereleases=True)


@pytest.mark.parametrize("python", ["3.10.12", "3.11.9", "3.12.3"])
def test_our_pythons_are_those_of_the_images(python):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert Requirement(f"x{project['requires-python']}").specifier.contains(python)


def test_the_manual_shows_the_table():
    rows = re.findall(r"^\| ([0-9.]+) \| (\S+) \| ([^|]*) \| (\S+) \| ([^|]*) \| ([^|]*) \| ([^|]*) \|$",
                      (ROOT / "docs/gaudi.md").read_text(), re.MULTILINE)  # fmt: skip
    expected = [
        (s.software, s.torch, ", ".join(s.pythons) or "?", s.deepspeed, s.optimum_habana or "?", s.transformers or "?",
         ", ".join(map(str, s.generations)))
        for s in STACKS
    ]  # fmt: skip
    assert [tuple(cell.strip().strip("`") for cell in row) for row in rows] == expected
