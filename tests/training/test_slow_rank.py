"""A rank that is slower than the others shows, whether its card is or what it reads."""

import json

import pytest

from bridgetower_train.cli import main

SLOW = """
import os
if os.environ.get("RANK") == "1":
    import time
    from bridgetower_train.{module} import {name}
    taken = {name}.{method}
    def slow(self, *arguments):
        time.sleep({seconds})
        return taken(self, *arguments)
    {name}.{method} = slow
"""


@pytest.mark.parametrize(
    ("module", "name", "method", "reads"),
    [
        ("tasks.pretraining.task", "Pretraining", "forward", False),
        pytest.param("data.dataset", "PairDataset", "__getitems__", True, marks=pytest.mark.nightly),
    ],
)
def test_a_slow_rank_is_named_with_what_it_takes(tmp_path, train, customised, module, name, method, reads):
    source = SLOW.format(module=module, name=name, method=method, seconds=0.3)
    run_dir = tmp_path / "run"
    output = train(run_dir, "steps=6", "log_every=2", "data.workers=0", ranks=2, env=customised(source))
    _, second, third = (json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines())
    for line in (second, third):
        assert line["slowest_rank"] == 1
        assert 0.3 < line["slowest_s"] < line["step_s"] * 1.1
        assert line["slowest_share"] > 0.25
        assert (line["slowest_data_s"] > 0.3) == reads
    assert "rank 1 takes " in output
    assert "% longer than the median" in output
    assert main(["report", f"run_dir={run_dir}"]) == 0
    page = (run_dir / "report.html").read_text()
    assert "rank 1 is the slowest in" in page
    assert "Slowest rank: % over the median" in page
