"""What is shown has no control characters, and no secrets."""

import pytest

from bridgetower_train.display import printable, without_secrets


def test_control_characters_are_shown_as_escapes():
    assert printable("\x1b]0;x\x07\r\nstep 9\u202e\x9b\ud800\u2028") == (
        r"\x1b]0;x\x07\r\nstep 9\u202e\x9b\ud800\u2028"
    )
    assert printable("naïve 猫 👩\u200d🔬") == "naïve 猫 👩\u200d🔬"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("http://alice:p@ss@host:8/x?a=1: refused", "http://***@host:8/x?a=1: refused"),
        ("s3://bucket/x", "s3://bucket/x"),
        ("root=https://h/x?X-Amz-Signature=abc&v=2 out=o", "root=https://h/x?X-Amz-Signature=***&v=2 out=o"),
        ("'simplecache::hf://tok@h/x?sig=1'", "'simplecache::hf://***@h/x?sig=***'"),
        ("https://u:p@[::1/x?token=t", "https://***@[::1/x"),
        ("a b", "a b"),
    ],
)
def test_urls_are_shown_without_their_secrets(given, shown):
    assert without_secrets(given) == shown
