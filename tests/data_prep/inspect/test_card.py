"""A dataset card tells what is known, and says what is not."""

import ast
import json
import re
import shlex

import pytest
import yaml

from bridgetower_train.cli import main
from bridgetower_train.errors import ConfigError, DataError
from data_prep.inspect.card import CardConfig, run
from data_prep.shards.index import build_index
from tests.hostile.attacks import attack
from tests.rendering import markup

ABOUT = {"title": "Some | captions", "homepage": "https://example.org", "licence": "CC BY 4.0", "note": "two\nlines"}


@pytest.fixture
def root(tmp_path, make_corpus):
    """`small`, with all that our preparation notes, and `web`, of another tool, which notes nothing."""
    root = make_corpus(tmp_path / "data")
    path = root / "small" / "manifest.json"
    manifest = json.loads(path.read_text())
    states = {"ok": 60, "404": 30, "a|b": 10}
    manifest["extra"] = {"rows": 100, "states": states, "source": {"annotations": "abc123"}, "about": ABOUT}
    path.write_text(json.dumps(manifest))
    times = {"started": "2026-01-02T03:04:05Z", "finished": "2026-01-03T03:04:05Z"}
    (root / "small" / "preparation.json").write_text(json.dumps({**times, "command": "bridgetower prep some out=data"}))
    make_corpus(root, "web", 7)
    return root


def test_what_is_known(root, capsys):
    assert main(["prep", "card", f"root={root}"]) == 0
    assert str(root / "README.md") in capsys.readouterr().out
    text = (root / "README.md").read_text()
    small = text[text.index("## small") : text.index("## web")]
    for line in (
        "- source: Some \\| captions",
        "- homepage: [https://example.org](https://example.org)",
        "- licence: CC BY 4.0",
        "- about the source: two lines",
        "- images: 60, shorter edge 64 px",
        "- captions: 180, 3.00 an image",
        "- prepared: from 2026-01-02T03:04:05Z to 2026-01-03T03:04:05Z",
        "- command: `bridgetower prep some out=data`",
        "- made from annotations: `abc123`",
        "| ok | 60 | 60.00% |",
        "| 404 | 30 | 30.00% |",
        "| a\\|b | 10 | 10.00% |",
    ):
        assert line in small.splitlines()
    assert "| small | Some \\| captions | 60 | 180 |" in text
    assert "60.0% of 100" in text
    assert "'data.corpora={small: 1.0, web: 1.0}'" in text
    assert "## Limits and biases" in text


def test_what_is_unknown_is_said(root):
    run(CardConfig(str(root)))
    text = (root / "README.md").read_text()
    web = text[text.index("## web") : text.index("## How")]
    for name in ("source", "homepage", "licence", "prepared"):
        assert f"- {name}: unknown" in web.splitlines()
    assert "so the yield is unknown" in web


@pytest.mark.parametrize("extra", [{"about": 7, "rows": "x", "states": [1]}, {"states": {"ok": "many"}, "rows": 3}])
def test_notes_of_another_shape_are_left_out(root, extra):
    path = root / "small" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"extra": extra}))
    (root / "small" / "preparation.json").write_text("{ torn")
    run(CardConfig(str(root / "small")))
    assert "- licence: unknown" in (root / "small" / "README.md").read_text()


def test_the_hub_reads_it(root):
    hub = pytest.importorskip("huggingface_hub")
    run(CardConfig(str(root)))
    card = hub.DatasetCard.load(root / "README.md")
    assert card.data.license == "other"
    assert card.data.size_categories == ["n<1K"]
    assert card.data.pretty_name == "data"
    assert (
        yaml.safe_load(re.match(r"---\n(.*?)---\n", (root / "README.md").read_text(), re.S)[1])["tags"][0]
        == "webdataset"
    )


def test_what_other_tools_dropped(tmp_path, make_tar, jpeg):
    make_tar(tmp_path / "web" / "0.tar", {"a.jpg": jpeg, "a.txt": b"t", "b.jpg": b"broken", "b.txt": b"t"})
    build_index(tmp_path / "web")
    run(CardConfig(str(tmp_path / "web")))
    text = (tmp_path / "web" / "README.md").read_text()
    assert "| not an image | 1 | 50.00% |" in text


def test_only_its_own_file_is_overwritten(root, tmp_path):
    for _ in range(2):
        run(CardConfig(str(root)))
    (root / "README.md").write_text("mine")
    with pytest.raises(ConfigError, match=r"README\.md: exists"):
        run(CardConfig(str(root)))
    assert (root / "README.md").read_text() == "mine"
    run(CardConfig(str(root), out=str(tmp_path / "card.md")))
    assert "# data" in (tmp_path / "card.md").read_text()


def test_a_corpus_without_manifest(root):
    (root / "web" / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"web/manifest\.json.*prep index"):
        run(CardConfig(str(root)))


def test_a_remote_root_needs_a_file(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/cards/a/0.tar", b"")
    with pytest.raises(ConfigError, match="out="):
        run(CardConfig("memory://cards"))
    memory.rm("/cards", recursive=True)


def hostile(root, evil: str) -> str:
    """The card of `small` where all that its writer can name is `evil`, a line or several."""
    folder, shard = root / "small", f"{evil.splitlines()[0].replace('/', '')[:60]}.tar"
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    (folder / manifest["shards"][0]["name"]).rename(folder / shard)
    manifest["shards"][0]["name"] = shard
    about = dict.fromkeys(("title", "homepage", "licence", "note"), evil)
    manifest["extra"] = {"rows": 100, "states": {"ok": 60, evil: 40}, "source": {evil: evil}, "about": about}
    path.write_text(json.dumps(manifest))
    noted = {"started": evil, "finished": evil, "command": f"{shlex.quote(evil)} {shlex.quote(evil)}"}
    (folder / "preparation.json").write_text(json.dumps(noted))
    run(CardConfig(str(root)))
    return (root / "README.md").read_text()


@attack(56)
@pytest.mark.parametrize(
    "evil",
    [
        "<script>alert(1)</script>",
        "x\r# Injected\n\n## Injected",
        "x\u2028# Injected\x1b[2J",
        "[a](javascript:alert(1)) ![i](http://evil)",
        'x", y); import os  # ',
        "'x\n```\nrm -rf ~\n```",
        "`x` *a* | $y$ &lt;",
    ],
)
def test_what_a_hostile_corpus_says_is_text(root, tmp_path, make_corpus, evil):
    def body(card):
        head, front, text = card.split("---\n", 2)
        assert (head, yaml.safe_load(front)["pretty_name"]) == ("", "data")
        return text, [kind for kind in markup(text) if kind != "code_inlinecode"]

    text, kinds = body(hostile(root, evil))
    make_corpus(make_corpus(tmp_path / "tame" / "data"), "web", 7)
    assert kinds == body(hostile(tmp_path / "tame" / "data", "plain"))[1]
    assert not set(text) & set("\x1b\r\u2028")
    shell, python = (re.search(rf"```{language}\n(.*?)```", text, re.S)[1] for language in ("sh", "python"))
    assert len(shell.splitlines()) == 1
    assert shlex.split(shell)[4] == "data.corpora={small: 1.0, web: 1.0}"
    (shard,) = [
        n.value for n in ast.walk(ast.parse(python)) if isinstance(n, ast.Constant) and "FOLDER" in str(n.value)
    ]
    assert shard.startswith("FOLDER/small/")
    assert len(ast.parse(python).body) == 2


@attack(56)
@pytest.mark.parametrize("name", ["s: 1.0}' ; touch X ; echo '{z", "bad\n# heading", "a b", "a'b"])
def test_a_name_that_means_something_to_a_shell_is_refused(make_corpus, tmp_path, name):
    with pytest.raises(ConfigError, match="rename the folder"):
        run(CardConfig(str(make_corpus(tmp_path / "data", name, 7))))
    assert not (tmp_path / "data" / "README.md").exists()


@attack(58)
def test_the_header_quotes_the_name_of_the_folder(make_corpus, tmp_path):
    name = "x: [y]\n---\nlicense: mit # <b>"
    for corpus in ("small", "web"):
        make_corpus(tmp_path / name, corpus, 7)
    run(CardConfig(str(tmp_path / name)))
    header = re.match(r"---\n(.*?)\n---\n", (tmp_path / name / "README.md").read_text(), re.S)[1]
    assert yaml.safe_load(header)["pretty_name"] == name
    assert yaml.safe_load(header)["license"] == "other"


def test_a_command_names_no_folders(root):
    path = root / "small" / "preparation.json"
    words = [
        "/home/alice/.venv/bin/bridgetower", "prep", "cc12m", "annotations=/home/alice/a b/cc12m.tsv", "out=data/x",
        "exclude=[/home/alice/y.tsv,'~/secret project/z.tsv']", "source=https://alice:hidden@host/x?sig=hidden",
    ]  # fmt: skip
    path.write_text(json.dumps({"command": shlex.join(words)}))
    run(CardConfig(str(root)))
    text = (root / "README.md").read_text()
    shown = re.search("- command: `(.*)`\n", text)[1]
    assert shlex.split(shown) == [
        "bridgetower", "prep", "cc12m", "annotations=cc12m.tsv", "out=x", "exclude=[y.tsv,'z.tsv']",
        "source=https://***@host/x?sig=***",
    ]  # fmt: skip
    assert "alice" not in text
    path.write_text(json.dumps({"command": "it's broken"}))
    run(CardConfig(str(root)))
    assert "- command: unknown" in (root / "README.md").read_text()
