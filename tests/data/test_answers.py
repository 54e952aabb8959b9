"""Answers are compared as the VQA evaluation does: normalisation, soft targets, leave-one-out accuracy."""

from itertools import combinations_with_replacement

import pytest

from bridgetower_train.data.answers import accuracy, normalise, soft_targets

HARD = {
    "Yes": "yes",
    "  two   Dogs ": "2 dogs",
    "a dog": "dog",
    "An apple on THE table": "apple on table",
    "the": "",
    "none": "0",
    "ten": "10",
    "eleven": "eleven",
    "twenty one": "twenty 1",
    "dont know": "don't know",
    "don't know": "don't know",
    "Im sure": "im sure",
    "couldnt've": "couldn't've",
    "couldn'tve": "couldn't've",
    "couldntve": "couldntve",
    "twas": "'twas",
    "yalld've": "yalld've",
    "yall'd've": "y'all'd've",
    "oclock": "o'clock",
    "somebody'd": "somebodyd",
    "its": "its",
    "let's": "let's",
    "10,000": "10000",
    "10,000 - 20,000": "10000 20000",
    "1,000 ice-cream": "1000 icecream",
    "red,white": "red white",
    "red, white": "red white",
    "red, white-blue": "red white blue",
    "T-shirt": "t shirt",
    "T -shirt": "t shirt",
    "left-hand -side": "lefthand side",
    "yes!": "yes",
    "is it?maybe": "is it maybe",
    "5.5": "5.5",
    "5.": "5",
    ".5": ".5",
    "p.m.": "pm",
    "st. mary": "st mary",
    "...": "",
    "1/2": "1 2",
    "$5": "$5",
    "50%": "50%",
    "2:30": "2:30",
    "black & white": "black & white",
    "rock\nand\troll": "rock and roll",
    "café": "café",
    "": "",
}


@pytest.mark.parametrize("answer", HARD)
def test_normalisation(answer):
    assert normalise(answer) == HARD[answer]


def test_soft_targets_count_who_agrees():
    answers = ["a"] * 5 + ["b"] * 3 + ["c"] * 2 + ["d"]
    assert soft_targets(answers) == {"a": 1.0, "b": 0.9, "c": 0.6, "d": 0.3}
    assert soft_targets(["a"] * 4) == {"a": 1.0}
    assert soft_targets([]) == {}


def test_accuracy_leaves_each_answer_out_once():
    """Against the definition, and of ten answers it is the soft target."""
    for answers in combinations_with_replacement("abc", 10):
        for answer in "abcd":
            sets = [answers[:i] + answers[i + 1 :] for i in range(10)]
            expected = sum(min(1, one.count(answer) / 3) for one in sets) / 10
            assert accuracy(answer, answers) == pytest.approx(expected)
            assert accuracy(answer, answers) == pytest.approx(soft_targets(answers).get(answer, 0.0))
    assert accuracy("a", ["a", "a", "b"]) == pytest.approx((1 / 3 + 1 / 3 + 2 / 3) / 3)
