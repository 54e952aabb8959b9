"""A run whose data lies in an object store (moto's S3 through s3fs) that fails, waits, throttles and cuts bodies short."""

from collections import Counter

import pytest

from tests.s3 import BUCKET, object_store
from tests.training.runs import metric_lines


@pytest.mark.nightly
def test_it_learns_what_a_run_with_local_data_learns(shapes_root, reference, train, tmp_path, monkeypatch):
    local = reference("steps=4", "data.workers=2")
    faults = ("slow down", "cut", "wait", "error")
    met: Counter[str] = Counter()

    def fault(method: str, path: str) -> str:
        met[path] += method == "GET"
        return faults[met[path] - 1] if method == "GET" and met[path] <= len(faults) else ""

    with object_store(monkeypatch) as store:
        files = [path for path in (shapes_root / "shapes").iterdir() if path.is_file()]
        store.put({f"data/shapes/{path.name}": path for path in files})
        store.fault = fault
        keys = (f"data.root=s3://{BUCKET}/data", f"data.cache_dir={tmp_path / 'cache'}", "data.workers=2", "steps=4")
        train(tmp_path / "run", *keys, f"tokenizer={shapes_root}/shapes/tokenizer.json")
        assert store.gets(".tar") > 0
    assert metric_lines(tmp_path / "run") == metric_lines(local)
