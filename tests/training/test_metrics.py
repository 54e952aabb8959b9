"""The records of a run and where they go."""

import io
import json
import sys

import pytest

from bridgetower_train.data.batch import BadRecord
from bridgetower_train.distributed import Ranks
from bridgetower_train.training.metrics import BadSamples, Console, JsonLines, TensorBoard, keep_lines_until

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


def test_tensorboard_has_each_line_at_once_and_forgets_what_is_trained_again(tmp_path):
    """A kill loses nothing; a resume after step 2 hides the steps from 3 on of the start before."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = TensorBoard(tmp_path, 0)
    for step in (1, 2, 3, 4):
        first.write({"step": step, "time": 9.0, "loss": step / 2, "epoch": 1, "note": "x"})
    resumed = TensorBoard(tmp_path, 2)
    resumed.write({"step": 3, "time": 9.0, "loss": 7.0})
    found = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(1, 0.5), (2, 1.0), (3, 7.0)]
    assert set(found.Tags()["scalars"]) == {"loss", "epoch"}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("terminal", [True, False])
def test_the_console_shows_losses_and_rates_below_what_was_said_before(monkeypatch, terminal):
    shown = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setenv("COLUMNS", "200")
    console = Console(0, 2, quiet=False)
    print("the summary")
    console.advance()
    rates = {"lr": 1e-3, "samples_per_s": 8.0, "data_wait": 0.01, "step_s": 1.0}
    console.write({"step": 1, "loss": 3.0, "loss_mlm": 2.0, "loss_itm": 1.0, **rates})
    console.close(failed=False)
    assert shown.getvalue().startswith("the summary\n")
    assert "loss 3.0000  mlm 2.000  itm 1.000  lr 1.00e-03  8.0 samples/s  data wait 1%" in shown.getvalue()
    assert console.last["loss"] == 3.0


def test_a_line_that_does_not_fit_names_its_file(tmp_path):
    """/dev/full is a disk without room."""
    path = tmp_path / "metrics.jsonl"
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: '.*metrics.jsonl'"):
        JsonLines(path).write({"step": 1})
