"""The records of a run and where they go."""

import json

from bridgetower_train.data.batch import BadRecord
from bridgetower_train.distributed import Ranks
from bridgetower_train.training.metrics import BadSamples, JsonLines, keep_lines_until

ALONE = Ranks(0, 1, None)


def test_resuming_drops_later_lines_and_a_torn_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in range(1, 6)) + '{"step": 6, "lo')
    keep_lines_until(path, 3)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]
    sink = JsonLines(path)
    sink.write({"step": 3, "loss": 0.1 + 0.2})
    sink.close(failed=False)
    assert json.loads(path.read_text().splitlines()[-1])["loss"] == 0.1 + 0.2


def test_bad_samples_are_listed_and_counted(tmp_path):
    path = tmp_path / "bad_samples.jsonl"
    bad = BadSamples(JsonLines(path), ALONE, 0)
    bad.add([BadRecord("coco", "000001.tar", "a", "changed", 7)])
    assert [record.key for record in bad.flush(10)] == ["a"]
    assert bad.flush(15) == []
    bad.add([BadRecord("coco", "000001.tar", "b", "changed", 9)])
    bad.flush(20)
    assert bad.shards == ["coco/000001.tar"]
    assert bad.count == 2
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], line["key"]) for line in lines] == [(10, "a"), (20, "b")]
    keep_lines_until(path, 10)
    resumed = BadSamples(JsonLines(path), ALONE, 1)
    resumed.add([BadRecord("coco", "000001.tar", "b", "changed", 9)])
    resumed.flush(20)
    assert resumed.count == 2
    assert [json.loads(line) for line in path.read_text().splitlines()] == lines
