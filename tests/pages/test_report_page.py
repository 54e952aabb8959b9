"""The report of a run, as people see it and from whatever a run has left."""

import base64
import json
import os
import re
import shutil

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from synthetic_run import HOSTILE, metric_line

from bridgetower_train.commands.report import ReportConfig, run
from bridgetower_train.errors import FileError, UserError
from bridgetower_train.pages.panels import learning_rates
from bridgetower_train.pages.report import planned_steps
from bridgetower_train.pages.run_folder import read_run
from tests.hostile.attacks import attack

FILES = (
    "config.yaml", "metrics.jsonl", "bad_samples.jsonl", "eval.json",
    "checkpoints/step-00003000/manifest.json", "checkpoints/step-00003000/state.json",
)  # fmt: skip

WORDS = (
    "step", "steps", "global_batch", "loss", "val_loss", "grad_norm", "data_wait", "step_s", "epoch", "position",
    "skipped", "reason", "key", "figures", "examples", "results", "query_kind", "image", "text", "score", "files",
    "bytes", "versions", "evaluations", "protocol", "best", "metric", "value",
)  # fmt: skip


def written(folder):
    run(ReportConfig(run_dir=str(folder)))
    return folder / "report.html"


def figures_of(browser):
    script = (
        "return [...document.querySelectorAll('header .figures div')].map(d => [...d.children].map(c => c.innerText))"
    )
    return dict(browser.execute_script(script))


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_page_is_whole_and_legible(run_folder, open_page, width, scheme):
    browser = open_page(written(run_folder), width, scheme)
    assert browser.title == "shapes tiny, seed 0 · BridgeTower"
    assert len(browser.find_elements("css selector", ".chart")) == 13
    assert len(browser.find_elements("css selector", "img")) == 2 + 5 + 3
    assert len(browser.find_elements("css selector", ".missing")) == 1
    red = browser.execute_script("return parseInt(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])")
    assert (red > 128) == (scheme == "light")


def test_page_says_how_the_run_went(run_folder, open_page, capsys):
    browser = open_page(written(run_folder), 1280)
    assert capsys.readouterr().out == f"report: {run_folder / 'report.html'}\n"
    figures = figures_of(browser)
    assert figures["steps"] == "3,000"
    assert figures["samples seen"] == "192,000"
    assert figures["time in training"] == "13 min 51 s"
    assert figures["bad samples"] == "12"
    body = browser.find_element("css selector", "body").text
    for text in (
        "finished",
        "image to text R@1 among 128",
        "0.7734",
        "step-00003000",
        "000011.tar",
        "cut short",
        "shapes_heldout",
        "2.13.0",
    ):
        assert text in body
    assert body.count(HOSTILE) == 2 + 1 + 1 + 4  # two lists of captions, a query, a reason's count, four bad samples


def test_environment_is_what_the_configuration_does_not_say(run_folder, open_page):
    browser = open_page(written(run_folder), 390)
    text = browser.find_element("css selector", "#environment").text
    assert "2.13.0" in text
    assert "CPU, 2 cores" in text
    assert "order" in text
    assert "data.lanes" not in text


def test_shares_are_drawn_in_per_cent(run_folder):
    text = written(run_folder).read_text()
    shown = re.search(r"<b>Data wait</b><span[^>]*><span><em>([\d.]+)", text)
    waited = read_run(run_folder).metrics["data_wait"][1]
    assert float(shown[1]) == pytest.approx(100 * waited[-5:].mean(), rel=0.01)


def test_all_learning_rates_are_drawn_as_they_were(run_folder):
    config = yaml.safe_load((run_folder / "config.yaml").read_text())
    config["optim"] |= {"lr": 1e-3, "lr_fusion": 5e-3, "lr_heads": 1e-3, "lr_scale": 1e-2}
    (run_folder / "config.yaml").write_text(yaml.safe_dump(config))
    changed = {"optim.lr_fusion": [2e-3, 5e-3], "optim.lr": [HOSTILE, 1e-3], "optim.lr_scale": [None, 1e-2]}
    starts = [{"changed": 3}, {"step": 1000, "changed": changed}]
    (run_folder / "starts.jsonl").write_text("".join(json.dumps(start) + "\n" for start in starts))
    run = read_run(run_folder)
    logged = run.metrics["lr"][1]
    rates = {curve.label: curve.values / logged for curve in learning_rates(run)}
    assert list(rates) == ["towers", "fusion", "heads", "temperature"]
    assert rates["fusion"][150] == pytest.approx(5)
    assert rates["temperature"][150] == pytest.approx(10)
    assert np.isnan(rates["fusion"][:100]).all()  # what the towers' rate was is not known
    changed["optim.lr"] = [5e-4, 1e-3]
    (run_folder / "starts.jsonl").write_text(json.dumps(starts[1]))
    rates = {curve.label: curve.values / logged for curve in learning_rates(read_run(run_folder))}
    assert rates["fusion"][[50, 150]] == pytest.approx([4, 5])
    assert rates["temperature"][[50, 150]] == pytest.approx([1, 10])
    (run_folder / "starts.jsonl").unlink()
    assert [curve.label for curve in learning_rates(read_run(run_folder))] == ["towers, heads", "fusion", "temperature"]


def test_command_and_commit_are_shown_without_folders_and_secrets(run_folder, open_page):
    start = {
        "step": 0,
        "command": "/home/me/.venv/bin/bridgetower train data.root=s3://me:pw@host/x",
        "commit": "1a2b" * 10,
    }
    other = {"step": 9, "command": "/home/me/bridgetower_train/__main__.py train", "commit": None, "hosts": ["gaudi-7"]}
    (run_folder / "starts.jsonl").write_text(json.dumps(start) + "\n" + json.dumps(other) + "\n")
    browser = open_page(written(run_folder), 390)
    shown = browser.find_element("css selector", "body").text
    assert "bridgetower train data.root=s3://***@host/x" in shown
    assert "1a2b1a2b1a2b" in shown
    assert "python -m bridgetower_train train at commit none" in shown
    assert not {"home/me", "gaudi-7", "pw"} & set(re.findall(r"home/me|gaudi-7|pw", shown))


def test_pointer_reads_the_curves(run_folder, open_page):
    from selenium.webdriver import ActionChains

    for width in (1280, 390):
        browser = open_page(written(run_folder), width)
        plot = browser.find_element("css selector", ".plot")
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
        ActionChains(browser).move_to_element(plot).perform()
        box = plot.find_element("css selector", ".cursor div")
        step = int(re.match(r"step ([\d,]+)", box.text)[1].replace(",", ""))
        assert abs(step - 1500) < 20
        training, validation = (float(v) for v in re.findall(r"(?:training|validation) ([\d.]+)", box.text))
        expected = read_run(run_folder).metrics["val_loss"]
        assert validation == pytest.approx(expected[1][expected[0].tolist().index(1500)], rel=1e-3)
        assert training == pytest.approx(2.2, abs=0.3)
        for across in (-0.49, 0.49):
            aside = int(across * plot.rect["width"])
            ActionChains(browser).move_to_element_with_offset(plot, aside, 0).perform()
            assert 0 <= box.rect["x"] <= box.rect["x"] + box.rect["width"] <= width


@pytest.mark.parametrize("gone", ["config.yaml", "metrics.jsonl", "bad_samples.jsonl", "checkpoints", "eval.json"])
def test_each_part_may_be_missing(run_folder, open_page, gone):
    path = run_folder / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    body = open_page(written(run_folder), 1280).find_element("css selector", "body").text
    said = {
        "config.yaml": "config.yaml is missing.",
        "metrics.jsonl": "metrics.jsonl is missing.",
        "bad_samples.jsonl": "None: all records were read.",
        "checkpoints": "None has been written yet.",
    }
    assert said.get(gone, "Learning") in body
    if gone == "eval.json":
        assert "Retrieval examples" not in body


def test_each_part_may_be_empty_or_damaged(run_folder):
    for content in (
        b"",
        b"\xff\xfe[1, 2",
        b"[1]",
        b'{"step": "x", "figures": 1, "examples": [1, {"results": [2]}]}',
        b"null\n3\n",
    ):
        for name in FILES:
            (run_folder / name).write_bytes(content)
        assert "shapes tiny" in written(run_folder).read_text()


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-(10**9), 10**9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(st.sampled_from(WORDS), json_values, max_size=5), min_size=6, max_size=6))
def test_any_json_gives_a_report(run_folder, contents):
    for name, content in zip(FILES, contents, strict=True):
        (run_folder / name).write_text(json.dumps(content))
    assert "</html>" in written(run_folder).read_text()


def test_torn_last_line_is_left_out_and_said(run_folder, open_page):
    with (run_folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(metric_line(3010, 3000))[:50])
    browser = open_page(written(run_folder), 390)
    assert (
        "metrics.jsonl: 1 line could not be read and left out." in browser.find_element("css selector", ".remarks").text
    )
    assert figures_of(browser)["steps"] == "3,000"


def test_run_in_progress(run_folder, open_page):
    lines = (run_folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run_folder / "metrics.jsonl").write_text(lines[0])
    shutil.rmtree(run_folder / "checkpoints")
    browser = open_page(written(run_folder), 390)
    assert browser.find_element("css selector", ".state").text == "step 10 of 3,000"


def test_later_line_of_a_step_counts(run_folder):
    with (run_folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "loss": 77.0}\n{"step": 15, "loss": 88.0, "mfu": null, "val_loss": NaN}\n')
    steps, values = read_run(run_folder).metrics["loss"]
    assert steps[:4].tolist() == [10, 15, 20, 30]
    assert values[1:3].tolist() == [88, 77]
    assert "mfu" not in read_run(run_folder).metrics


def test_damaged_checkpoints_are_named(run_folder):
    assert [c.fault for c in read_run(run_folder).checkpoints] == ["", ""]
    older, newer = (run_folder / "checkpoints" / f"step-0000{n}000" for n in (2, 3))
    (older / "manifest.json").unlink()
    with (newer / "model.safetensors").open("ab") as file:
        file.write(b"x")
    (run_folder / "checkpoints" / "step-00004000.tmp").mkdir()
    read = read_run(run_folder)
    assert [(c.step, c.fault) for c in read.checkpoints] == [
        (2000, "manifest.json is missing or damaged"),
        (3000, "model.safetensors has 300001 bytes instead of 300000"),
    ]
    (newer / "optimizer" / "0.safetensors").unlink()
    (newer / "model.safetensors").unlink()
    assert read_run(run_folder).checkpoints[1].fault == "model.safetensors is missing"


def test_long_run_stays_small(tmp_path, open_page):
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for step in range(1, 100_001):
            file.write(json.dumps(metric_line(step, 100_000)) + "\n")
    page = written(tmp_path)
    assert page.stat().st_size < 700_000
    open_page(page, 1280)


def test_no_run_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        run(ReportConfig(run_dir=str(tmp_path / "gone")))
    with pytest.raises(UserError, match="is not a run folder"):
        run(ReportConfig(run_dir=str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("steps", "expected"),
    [("3000", 3000), ("64000 samples", 1000), ("3 epochs", 938), ("1e6 parsecs", None), ("soon", None), (None, None)],
)
def test_planned_steps(run_folder, steps, expected):
    read = read_run(run_folder)
    read.config["steps"] = steps
    assert planned_steps(read) == expected
    read.metrics.clear()
    assert planned_steps(read) == (None if "epoch" in str(steps) else expected)


def test_page_goes_where_it_is_told(run_folder, tmp_path):
    run(ReportConfig(run_dir=str(run_folder), out=str(tmp_path / "a.html")))
    assert (tmp_path / "a.html").exists()
    assert not (run_folder / "report.html").exists()


def test_charts_are_those_of_the_task(run_folder):
    """Without a configuration, those of the losses and accuracies that were logged."""
    page = written(run_folder).read_text()
    titles = re.findall(r"<figcaption><b>([^<]+)</b>", page)
    assert titles[:8] == [
        "Loss", "Masked language modelling, loss", "Image-text matching, loss", "Image-text contrast, loss",
        "Accuracy in training", "Accuracy in validation", "Retrieval R@1 among 128 in validation", "Logit scale",
    ]  # fmt: skip
    for content in (None, "task: unheard_of", "steps: ${oc.env:HOME}\nmodel: 3"):
        (run_folder / "config.yaml").unlink(missing_ok=True)
        if content:
            (run_folder / "config.yaml").write_text(content)
        titles = re.findall(r"<figcaption><b>([^<]+)</b>", written(run_folder).read_text())
        assert titles[:4] == ["Loss", "loss_mlm, loss", "loss_itm, loss", "loss_itc, loss"]
        assert titles[4:6] == ["Accuracy in training", "Accuracy in validation"]


def test_examples_of_any_evaluation_are_shown(run_folder):
    uri = json.loads((run_folder / "eval.json").read_text())["examples"][0]["image"]
    shown = {
        "images": [{"image": uri, "caption": HOSTILE}, {"image": "gone.jpg"}],
        "text": "two",
        "facts": {"right": True},
    }
    entry = {"corpus": "x", "step": 5, "protocol": {}, "figures": {"AUC": 0.5}, "examples": [shown, {}, 3]}
    (run_folder / "eval.json").write_text(json.dumps({"evaluations": {"toy on x": entry}}))
    page = written(run_folder).read_text()
    assert page.count("<img src") == 1
    assert page.count("image missing") == 1
    assert 'onerror="' not in page
    for part in ("toy on x", "step 5", '<p class="caption">two</p>', "<dt>right</dt><dd>True</dd>"):
        assert part in page, part


def test_evaluations_are_shown_with_their_protocol(run_folder, open_page):
    path = run_folder / "eval.json"
    figures = {"ITC": {"image to text R@1": 12.5, "RSUM": 287.9}, "ITC, best 128 re-ranked by ITM": {"RSUM": 301.25}}
    entry = {"protocol": {"model": "zero-shot: trained on cc3m", "images": 1000}, "figures": figures}
    kept = {
        "retrieval on flickr30k_test": entry,
        "matching on x": {"protocol": {}, "figures": {"AUC": 0.75}},
        "torn": 3,
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | {"evaluations": kept}))
    for width in (1280, 390):
        shown = open_page(written(run_folder), width).find_element("css selector", "#evaluation").text
        for part in (
            "retrieval on flickr30k_test",
            "model: zero-shot: trained on cc3m",
            "best 128 re-ranked",
            "301.2",
            "0.75",
        ):
            assert part in shown, part


@attack(48)
@attack(49)
@attack(50)
def test_no_file_that_eval_json_names_is_opened(run_folder, tmp_path):
    """The run folder may be written by others, and the page is made to be passed on."""
    secret = tmp_path / "passport.png"
    Image.new("RGB", (8, 8)).save(secret)
    os.mkfifo(tmp_path / "fifo")
    postscript = (
        "data:image/eps;base64," + base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n").decode()
    )
    named = [str(secret), "../passport.png", str(tmp_path / "fifo"), postscript]
    entry = {"figures": {"AUC": 0.5}, "examples": [{"images": [{"image": name} for name in named]}]}
    (run_folder / "eval.json").write_text(json.dumps({"evaluations": {"toy on x": entry}}))
    page = written(run_folder).read_text()
    assert page.count("image missing") == len(named)
    assert "<img src" not in page


@pytest.mark.parametrize("name", ["config.yaml", "eval.json", "metrics.jsonl", "checkpoints/step-00003000/state.json"])
def test_what_links_of_a_run_lead_to_is_not_shown(run_folder, tmp_path, name):
    secret = tmp_path / "hosts.yml"
    secret.write_text('{"step": 1, "oauth_token": "gho_16C7e42F292c6912E7"}')
    (run_folder / name).unlink()
    (run_folder / name).symlink_to(secret)
    with pytest.raises(
        FileError, match=f"{name}: is a link that leads outside .*; to follow such links, set follow_links=true"
    ):
        written(run_folder)
    assert not (run_folder / "report.html").exists()
    run(ReportConfig(run_dir=str(run_folder), follow_links=True))


def test_checkpoints_on_another_disk_are_shown(run_folder, tmp_path):
    (run_folder / "checkpoints").rename(tmp_path / "disk")
    (run_folder / "checkpoints").symlink_to(tmp_path / "disk")
    assert "step-00003000" in written(run_folder).read_text()
