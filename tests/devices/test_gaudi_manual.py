"""docs/gaudi.md says of each claim how it is known."""

import re
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "gaudi.md").read_text()
KNOWN = r"(read|run|emulated|estimated|seen)"
MARK = re.compile(rf"\((?:[^()]*\W)?{KNOWN}\b[^()]*\)")


def blocks() -> list[tuple[str, str]]:
    """(what stands before it, block) of each paragraph, list item and table below the introduction."""
    text = re.sub(r"```.*?```", "", PAGE[PAGE.index("## 1. ") :], flags=re.DOTALL)
    parts = [
        part for block in re.split(r"\n\s*\n", text) for part in re.split(r"\n(?=- |\d\. )", block.strip()) if part
    ]
    return [(before, part) for before, part in zip(["", *parts], parts, strict=False) if not part.startswith("#")]


def test_each_claim_says_how_it_is_known():
    for before, block in blocks():
        if not block.startswith("|"):
            assert MARK.search(block), f"(read), (run), (emulated), (estimated) or (seen)?\n{block}"
            continue
        head, _, *rows = block.splitlines()
        if head.endswith("| known |"):
            assert [row for row in rows if not re.search(rf"\b{KNOWN}\b[^|]* \|$", row)] == []
        else:
            assert MARK.search(before), f"a column `known`, or a mark before the table:\n{head}"


def test_nothing_is_said_to_have_been_seen_on_a_card():
    """Until a run on one: then this test goes."""
    assert not [block for _, block in blocks() if re.search(r"\(seen|\| seen", block)]
