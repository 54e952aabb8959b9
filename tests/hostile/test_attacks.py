"""Every attack has a test, and docs/security.md says what the table says."""

import re

from tests.hostile.attacks import ATTACKS, BEGIN, END, PAGE, ROOT, table


def test_every_attack_is_tried():
    tried = {
        int(n)
        for file in (ROOT / "tests").rglob("test_*.py")
        for n in re.findall(r"\battack\((\d+)\)", file.read_text())
    }
    assert tried == set(ATTACKS)


def test_the_documentation_has_the_table():
    assert PAGE.read_text().partition(BEGIN)[2].partition(END)[0] == table(), "run python -m tests.hostile.attacks"
