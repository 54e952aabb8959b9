"""What is shown has no control characters, and no secrets."""

import io
import subprocess
import sys
import time

import pytest
from tqdm import tqdm

from bridgetower_train.display import Guarded, plural, print_line, printable, public, without_secrets
from bridgetower_train.errors import DataError

FORGED = "\x1b]0;PWNED\x07\x1b[1A\x1b[2K\rstep 9/9\nall is well\u202e\x9b31m\ud800"


def test_control_characters_are_shown_as_escapes():
    assert printable("\x1b]0;x\x07\r\nstep 9\u202e\x9b\ud800\u2028") == (
        r"\x1b]0;x\x07\r\nstep 9\u202e\x9b\ud800\u2028"
    )
    assert printable("naïve 猫 👩\u200d🔬") == "naïve 猫 👩\u200d🔬"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("http://alice:p@ss@host:8/x?a=1: refused", "http://***@host:8/x?a=1: refused"),
        ("http://alice:p?#'\"<s@host/x", "http://***@host/x"),
        ("s3://bucket/x@2", "s3://bucket/x@2"),
        ("root=https://h/x?X-Amz-Signature=abc&v=2 out=o", "root=https://h/x?X-Amz-Signature=***&v=2 out=o"),
        ("'simplecache::hf://tok@h/x?sig=1'", "'simplecache::hf://***@h/x?sig=***'"),
        ("zip://x.zip::http://u:p@h/x.zip", "zip://x.zip::http://***@h/x.zip"),
        ("https://h/x?from=http://u:p@i/&token=t", "https://h/x?from=http://***@i/&token=***"),
        ("https://u:p@[::1/x?token=t", "https://***@[::1/x?token=***"),
        ("/cwd/http:/u:p@h/x", "/cwd/http:/***@h/x"),
        ("https://h/x#access_token=t", "https://h/x#access_token=***"),
        ("http://h, mail a@b or file:///home/a@b", "http://h, mail a@b or file:///home/a@b"),
        ("a b", "a b"),
    ],
)
def test_urls_are_shown_without_their_secrets(given, shown):
    assert without_secrets(given) == shown
    assert without_secrets(shown) == shown
    assert str(DataError(given)) == shown
    assert public({"a": [given, 1], "b": {"c": given}}) == {"a": [shown, 1], "b": {"c": shown}}


@pytest.mark.parametrize(
    "text", ["A" * 10**6, ":/" * 10**6, "://" + "a?" * 10**6, "://?" + "sig" * 10**6, "\r" * 10**6]
)
def test_long_texts_are_shown_in_time(text):
    began = time.monotonic()
    Guarded(io.StringIO()).write(text)
    assert time.monotonic() - began < 5


def test_a_line_stays_a_line(capsys):
    print_line(f"key {FORGED} of http://u:p@h/")
    assert capsys.readouterr().out == (
        r"key \x1b]0;PWNED\x07\x1b[1A\x1b[2K\rstep 9/9\nall is well\u202e\x9b31m\ud800 of http://***@h/" + "\n"
    )


def test_a_guarded_stream_keeps_lines_and_colours_alone():
    stream = io.StringIO()
    guarded = Guarded(stream)
    print("\x1b[31mred\x1b[0m\ttab\nline", FORGED, "http://u:p@h/", file=guarded)
    guarded.writelines(["\x1b]0;x\x07"])
    assert stream.getvalue() == (
        "\x1b[31mred\x1b[0m\ttab\nline "
        "\\x1b]0;PWNED\\x07\\x1b[1A\\x1b[2K\\rstep 9/9\nall is well\\u202e\\x9b31m\\ud800 http://***@h/\n\\x1b]0;x\\x07"
    )
    assert guarded.writable()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_bars_are_drawn_as_ever():
    def drawn(stream, seen):
        with tqdm(total=3, file=stream, ncols=60, mininterval=0, bar_format="{desc}{n}|{bar}|") as bar:
            with tqdm(total=2, file=stream, ncols=60, mininterval=0, position=1, bar_format="{n}|{bar}|") as below:
                below.update(2)
            bar.update(2)
            bar.write("a line", file=stream)
        return seen.getvalue()

    terminal, other = Terminal(), Terminal()
    moves = drawn(Guarded(terminal), terminal)
    assert moves == drawn(other, other)
    assert "\x1b[A" in moves
    assert "\r" in moves


PROGRAM = """
import sys
from types import ModuleType
from bridgetower_train import cli

def run(config):
    raise RuntimeError("/nowhere/http://alice:hidden@host/" + "\\x1b]0;x\\x07")

module = ModuleType("evil")
module.run, module.EvilConfig = run, type("EvilConfig", (), {})
sys.modules["evil"] = module
cli.COMMANDS["evil"] = cli.Command("", module="evil")
cli._run = lambda *a, **k: run(None)
sys.exit(cli.entry())
"""


def test_a_traceback_passes_the_guarded_stream(tmp_path):
    arguments = ["evil", "root=http://alice:hidden@host/"]
    ended = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "RuntimeError" in ended.stderr
    assert r"http://***@host/\x1b]0;x\x07" in ended.stderr
    assert "hidden" not in ended.stderr


def test_one_is_singular():
    assert [plural(n, "rank") for n in (0, 1, 2, 1000)] == ["0 ranks", "1 rank", "2 ranks", "1,000 ranks"]
    assert plural(8, "micro-batch") == "8 micro-batches"
