"""Answers to questions about images, compared as the VQA evaluation does (https://visualqa.org/evaluation.html).

Ten people answered each question of VQAv2. An answer is right where at least three of the others gave it.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

SOFT_TARGETS = (0.0, 0.3, 0.6, 0.9, 1.0)
"""Target of an answer that 0, 1, 2, 3, 4 or more people gave: its accuracy, if ten people answered."""

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_WORDS = {word: str(number) for number, word in enumerate(_NUMBERS)} | {"none": "0"}
_ARTICLES = ("a", "an", "the")
_PERIOD = re.compile(r"\.(?!\d)")
_COMMA = re.compile(r"\d,\d")
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
    how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
    oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
    someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's they'd
    they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's
    where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll
    y'all'd've you'd you'd've you'll you're you've
"""
_WORDS |= {
    word[:at] + word[at + 1 :]: word for word in _CONTRACTED.split() for at, letter in enumerate(word) if letter == "'"
}
_WORDS["somebody'd"] = "somebodyd"  # so it is in the evaluation


@lru_cache(maxsize=1 << 16)
def normalise(answer: str) -> str:
    """An answer as the evaluation compares it.

    Lower case, without punctuation and articles, numbers up to ten as digits, and contractions with their apostrophe. A mark
    becomes a space, unless it is next to one or the answer has a comma between digits; periods stay before digits.
    """
    text = re.sub(r"[\n\t]", " ", answer).strip()
    closed = _COMMA.search(text) is not None
    spaces = {
        ord(mark): "" if closed or f"{mark} " in text or f" {mark}" in text else " " for mark in _MARKS if mark in text
    }
    words = _PERIOD.sub("", text.translate(spaces)).lower().split()
    return " ".join(_WORDS.get(word, word) for word in words if word not in _ARTICLES)


def soft_targets(answers: Sequence[str]) -> dict[str, float]:
    """Normalised answer -> its target, 0.3 to 1, of the normalised `answers` to a question."""
    return {answer: SOFT_TARGETS[min(count, len(SOFT_TARGETS) - 1)] for answer, count in Counter(answers).items()}


def accuracy(answer: str, answers: Sequence[str]) -> float:
    """The accuracy of an answer, 0 to 1, all normalised: min(1, n / 3), averaged over the sets that leave one of `answers` out.

    n is how often the answer is in the set. With ten `answers` this is the soft target.
    """
    given = sum(other == answer for other in answers)
    scores = (min(1.0, (given - (left_out == answer)) / 3) for left_out in answers)
    return sum(scores) / len(answers)
