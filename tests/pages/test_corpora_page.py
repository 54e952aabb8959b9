"""The page of `prep stats`: what corpora hold, drawn."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import HOSTILE, drawn
from synthetic_run import jpeg as encode

from bridgetower_train.cli import main
from bridgetower_train.pages.histogram import SHOWN, Distribution, histogram
from data_prep.inspect.stats import StatsConfig, run
from data_prep.shapes.tokenizer import train_tokenizer
from data_prep.shards.index import build_index
from data_prep.shards.writer import write_corpus
from data_prep.source.image import prepare_jpeg

STATES = {"ok": 40, "404": 50, "host cannot be reached": 9, HOSTILE: 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A corpus of our own, with notes and a hostile caption, and one of another tool."""
    root = tmp_path_factory.mktemp("stats") / "data"
    captions = ([HOSTILE, *(f"{'word ' * (i + 1)}number {k}" for k in range(i % 5))] for i in range(40))
    jpegs = (prepare_jpeg(drawn(i, 96), 64) for i in range(40))
    records = (
        (f"{i:06d}", jpeg, texts, {"width": 640 + i, "height": 480 - i})
        for i, (jpeg, texts) in enumerate(zip(jpegs, captions, strict=True))
    )
    write_corpus(root / "ours", 64, records, 10)
    about = {"title": f"Ours {HOSTILE}", "homepage": "", "licence": "CC0", "note": "Drawn images only."}
    path = root / "ours" / "manifest.json"
    notes = {"rows": 100, "states": STATES, "about": about}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"extra": notes}))
    train_tokenizer(["word number"], 300).save(str(root / "tokenizer.json"))
    return root


@pytest.fixture
def theirs(root, tmp_path, make_tar):
    """A corpus as img2dataset leaves it, beside ours."""
    members = {}
    for i in range(6):
        status = {
            "caption": f"caption {i}",
            "width": 64,
            "height": 64,
            "original_width": 500,
            "original_height": 400 + i,
        }
        members |= {f"{i}.jpg": encode(drawn(i, 60 + 10 * i)), f"{i}.json": json.dumps(status).encode()}
    make_tar(tmp_path / "data" / "theirs" / "00000.tar", members)
    build_index(tmp_path / "data" / "theirs")
    (tmp_path / "data" / "ours").symlink_to(root / "ours")
    return tmp_path / "data"


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_page(root, theirs, tmp_path, open_page, width, scheme):
    run(StatsConfig(root=str(theirs), tokenizer=str(root), images=8, out=str(tmp_path / "stats.html")))
    browser = open_page(tmp_path / "stats.html", width, scheme)
    assert browser.title == "data · BridgeTower"
    ours, other = browser.find_elements("css selector", ".corpus")
    assert len(ours.find_elements("css selector", ".sheet img")) == 8
    assert len(other.find_elements("css selector", ".sheet img")) == 6
    titles = [figure.text.split("\n")[0] for figure in ours.find_elements("css selector", ".chart b")]
    assert titles == ["Captions per image", "Characters per caption", "Tokens per caption", "Stored image, kB",
                      "Original image, shorter edge, px"]  # fmt: skip
    assert "Stored image, shorter edge, px" in other.text
    shares = [item.text.replace("\n", " ") for item in ours.find_elements("css selector", ".shares li")]
    assert shares == ["404 50 (50%)", "ok 40 (40%)", "host cannot be reached 9 (9%)", f"{HOSTILE} 1 (1%)"]
    bars = [bar.size["width"] for bar in ours.find_elements("css selector", ".shares .bar")]
    assert bars[0] == pytest.approx(bars[1] * 50 / 40, rel=0.02)
    assert "40.0% of 100" in ours.text
    assert "its yield is unknown" in other.text
    assert not other.find_elements("css selector", ".shares")


def test_the_pointer_reads_the_bars(root, tmp_path, open_page):
    run(StatsConfig(root=str(root), out=str(tmp_path / "stats.html")))
    browser = open_page(tmp_path / "stats.html", 1280)
    plot = browser.find_element("css selector", ".plot")
    script = """const box = arguments[0].getBoundingClientRect();
      const at = {clientX: box.left + box.width * 0.1, clientY: box.top + 9, bubbles: true};
      arguments[0].dispatchEvent(new PointerEvent("pointermove", at));
      return arguments[0].querySelector(".cursor").textContent;"""
    assert browser.execute_script(script, plot) == "1% 20"


def test_figures_are_those_of_the_corpus(root, tmp_path, capsys):
    assert main(["prep", "stats", f"root={root / 'ours'}", f"out={tmp_path}/page.html", "sample=10", "images=3"]) == 0
    printed = capsys.readouterr().out
    assert "ours: images 40, captions 120, captions per image 3.0, shorter edge 64 px" in printed
    assert "yield 40.0% of 100" in printed
    assert "Captions per image: median 3, 95% up to 5, largest 5" in printed  # of all 40, though 10 are read
    assert "Original image, shorter edge, px: median 459, 95% up to 480, largest 480" in printed
    assert "  404: 50" in printed
    page = (tmp_path / "page.html").read_text()
    assert "come from 10 records" in page
    assert len(re.findall("<img ", page)) == 3


def test_records_that_cannot_be_read_are_counted(theirs, tmp_path, capsys):
    tar = theirs / "theirs" / "00000.tar"
    data = bytearray(tar.read_bytes())
    data[600] ^= 255
    tar.write_bytes(data)
    run(StatsConfig(root=str(theirs), out=str(tmp_path / "stats.html")))
    assert "1 of these records could not be read" in (tmp_path / "stats.html").read_text()


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=60))
def test_bars_hold_the_shares(values):
    drawn = histogram(Distribution.of("t", values))
    if len(set(values)) == 1:
        assert drawn == ""
        return
    (read,) = json.loads(re.search(r'data-curves="([^"]*)"', drawn)[1].replace("&quot;", '"'))
    assert 100 * (2 * SHOWN - 1) - 3 <= sum(read["values"]) <= 101
    for name, share in zip(read["names"], read["values"], strict=True):
        low, high = [int(part.replace(",", "")) for part in (name.split(" to ") * 2)[:2]]
        inside = np.mean([low <= value <= high for value in values])
        assert share == pytest.approx(100 * inside, rel=0.01)


def test_values_beyond_the_plot_are_told():
    drawn = histogram(Distribution.of("t", [*range(1000), 90_000]))
    assert "90,000" in drawn
    assert float(re.search(r'data-range="\[[^,]*,([^\]]*)\]', drawn)[1]) < 1100


def test_whole_numbers_have_a_bar_each():
    (read,) = json.loads(
        re.search(r'data-curves="([^"]*)"', histogram(Distribution.of("t", [1, 3, 3])))[1].replace("&quot;", '"')
    )
    assert (read["names"], read["values"]) == (["1", "2", "3"], [33.3, 0.0, 66.7])
