"""What is counted of a compiled step follows from its shapes."""

import pytest
from tiny import TINY_MODEL

from bridgetower_train.bench.kernels import BenchKernelsConfig
from bridgetower_train.bench.kit import as_run
from bridgetower_train.engines.graphs import planned_graphs
from bridgetower_train.tasks import contrast

PAIRS = 2


def product(rows: int, width: int, results: int) -> int:
    """Bytes of a linear layer in float32: what it reads and writes."""
    return 4 * (rows * width + width * results + results + rows * results)


def test_kernels(bench, tiny):
    figures = bench("kernels", *tiny, f"batch={PAIRS}")
    parts = figures["parts"]
    assert figures["kernels"] == sum(row["launched"] for row in parts.values())
    sizes = [value for row in parts.values() for name, value in row.items() if name.endswith("_gb")]
    assert figures["gb"] == pytest.approx(sum(sizes))
    run = as_run(BenchKernelsConfig(model=TINY_MODEL))
    assert figures["graphs"] == planned_graphs(run, contrast(run, 1), "compile").distinct
    assert {name.split()[0] for name in parts} == {"Block", "TextLayer", "CrossLayer", "LayerNorm", "between"}
    block, rows, width = parts["Block forward"], PAIRS * TINY_MODEL.image_tokens, TINY_MODEL.width
    assert block["runs"] == parts["Block backward"]["runs"] == TINY_MODEL.vision_layers
    shapes = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
    assert block["products_gb"] == pytest.approx(sum(product(rows, *shape) for shape in shapes) / 1e9)
    assert parts["Block backward"]["products_gb"] > block["products_gb"]
