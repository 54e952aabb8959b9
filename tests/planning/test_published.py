"""The table of published corpora is that of the manual."""

import re
from pathlib import Path

import pytest

from bridgetower_train.planning.corpora import PUBLISHED

MANUAL = Path(__file__).parents[2] / "docs" / "data.md"
NAMES = {"COCO": "coco", "Visual Genome": "vg", "SBU": "sbu", "CC3M": "cc3m", "CC12M": "cc12m", "VQAv2": "vqav2_train"}


def numbers(cell: str) -> list[float]:
    """The numbers in a cell: `113,287`, `860 k`, `2.9 M`."""
    found = re.findall(r"(\d[\d,]*(?:\.\d+)?)(?: ([kM])\b)?", cell)
    return [float(number.replace(",", "")) * {"k": 1e3, "M": 1e6, "": 1}[unit] for number, unit in found]


def test_the_manual_has_the_same_sizes():
    section = MANUAL.read_text().partition("## What to expect\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:5] for line in section.splitlines() if re.match(r"\| (COCO|Vis|SBU|CC|VQA)", line)]
    stated = {}
    for name, total, images, captions in rows:
        of_corpus = numbers(total if images.strip() == "all" else images)[0]
        stated[NAMES[name.split(",")[0].strip()]] = (of_corpus, *(numbers(captions) or [of_corpus]))
    assert stated == {name: pytest.approx(tuple(size), rel=0.005) for name, size in PUBLISHED.items()}
