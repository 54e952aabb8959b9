"""The page of a plan."""

import re

import pytest

from bridgetower_train.commands.plan import summary
from bridgetower_train.pages.plan import plan_page
from bridgetower_train.planning.estimate import Plan, plan_from
from tests.planning.plans import small_plan, synthetic_memories


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_from(small_plan(), synthetic_memories())


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_everything_is_shown_at_any_width(plan, width, scheme, tmp_path, open_page):
    path = tmp_path / "plan.html"
    path.write_text(plan_page(plan))
    browser = open_page(path, width, scheme)
    assert browser.title == "gaudi2x512 · BridgeTower plan"
    shown = browser.find_element("css selector", "body").text
    for part in (
        "512 Gaudi2",
        "fusion, image stream",
        "all-reduce",
        "4,096",
        "global batch 2,048",
        "mine",
        "432 TFLOP/s",
    ):
        assert part in shown, part
    charts = [figure.text for figure in browser.find_elements("css selector", ".chart b")]
    assert "Time to train" in charts
    assert "Scaling efficiency" in charts
    assert len(charts) == 9
    stacks = browser.find_elements("css selector", ".stack")
    assert len(stacks) == 8
    use = plan.memories[False].use("native", 4, 512)
    widths = [piece.size["width"] for piece in stacks[0].find_elements("css selector", "i")]
    assert len(widths) == 5
    assert sum(widths) <= stacks[0].size["width"]
    assert f"{use.total / 2**30:.1f} GiB" in shown


def test_the_memory_of_a_card_is_one_number(plan):
    text = plan_page(plan) + "\n".join(summary(plan))
    assert re.search(r"\b96 GiB\b", text)
    assert not re.search(r"\b(96|103)(\.\d)? GB\b|>103<", text)


def test_the_pointer_reads_numbers_of_cards(plan, tmp_path, open_page):
    path = tmp_path / "plan.html"
    path.write_text(plan_page(plan))
    browser = open_page(path, 1280)
    script = """const chart = [...document.querySelectorAll(".chart")].find((c) => c.textContent.startsWith("Scaling"));
      const plot = chart.querySelector(".plot"), box = plot.getBoundingClientRect();
      const at = {clientX: box.left + box.width * arguments[0], clientY: box.top + 9, bubbles: true};
      plot.dispatchEvent(new PointerEvent("pointermove", at));
      return plot.querySelector(".cursor").textContent;"""
    assert browser.execute_script(script, 0.0).startswith("8 cards4 pairs a card 100")
    assert browser.execute_script(script, 0.66).startswith("512 cards")
    assert browser.execute_script(script, 1.0).startswith("4,096 cards")
