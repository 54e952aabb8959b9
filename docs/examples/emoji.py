# /// script
# requires-python = ">=3.10"
# dependencies = ["resvg-py>=0.5", "tokenizers>=0.20"]
# ///
"""Emoji of three vendors from npm as tables for `bridgetower prep captions`: what to learn from, and two tests.

    npm install openmoji@17.0.0 emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0
    uv run docs/examples/emoji.py node_modules emoji     # or pip install resvg-py tokenizers, and python

`emoji.csv` has what google and openmoji drew. Never in it: the combinations of person and skin tone of `emoji_unseen.csv`,
drawn by google, and all that twitter drew, of which `emoji_style.csv` shows concepts that `emoji.csv` has. The caption is
openmoji's annotation. `tokenizer.json` is made from the captions of `emoji.csv`. The same packages give the same files.
"""

import argparse
import csv
import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path

import resvg_py
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

EDGE = 96  # pixels of openmoji's drawings, 64 of the others'
VARIATION = "FE0F"  # only some vendors name it in their files
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True, special=True)]  # <pad> has to be number 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path, help="folder of the three packages, unpacked, such as node_modules")
    parser.add_argument("out", type=Path, help="folder to write, which must not exist")
    parser.add_argument("--unseen", type=int, default=300, help="combinations that are held out (%(default)s)")
    parser.add_argument("--style", type=int, default=1000, help="concepts in twitter's hand (%(default)s)")
    given = parser.parse_args()
    try:
        print(write(given.packages, given.out, given.unseen, given.style))
    except (OSError, ValueError) as error:
        sys.exit(f"emoji.py: {error}")


def write(packages: Path, out: Path, unseen: int, style: int) -> str:
    """Write `out`, whole or not at all, and say what is in it. ValueError or OSError if `packages` does not suffice."""
    if out.exists():
        raise ValueError(f"{out}: exists; remove it, or name another folder")
    concepts = read_concepts(packages / "openmoji" / "data" / "openmoji.json")
    svg = {name: packages / "openmoji" / "color" / "svg" / f"{name}.svg" for name in concepts}
    drawn = {
        "openmoji": {plain(name): path for name, path in svg.items() if path.is_file()},
        "google": read_pngs(packages, "google"),
        "twitter": read_pngs(packages, "twitter"),
    }
    captions = {plain(name): concept["annotation"] for name, concept in concepts.items()}
    tones = {plain(name) for name, concept in concepts.items() if concept["skintone"]}
    held_out = choose(tones & drawn["google"].keys(), unseen, "combinations of person and skin tone in google's hand")
    taught = (captions.keys() & (drawn["google"].keys() | drawn["openmoji"].keys())) - held_out
    new_hand = choose(taught & drawn["twitter"].keys(), style, "concepts in twitter's hand")
    tables = {
        "emoji": [(vendor, c) for vendor in ("google", "openmoji") for c in sorted(taught & drawn[vendor].keys())],
        "emoji_unseen": [("google", c) for c in sorted(held_out)],
        "emoji_style": [("twitter", c) for c in sorted(new_hand)],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as unfinished:
        folder = Path(unfinished, out.name)
        folder.mkdir()
        for name, rows in tables.items():
            with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
                table = csv.writer(file)
                table.writerow(("image", "caption"))
                for vendor, concept in rows:
                    image = folder / vendor / f"{concept}.png"
                    image.parent.mkdir(exist_ok=True)
                    copy(drawn[vendor][concept], image)
                    table.writerow((f"{vendor}/{concept}.png", captions[concept]))
        make_tokenizer([captions[concept] for _, concept in tables["emoji"]]).save(str(folder / "tokenizer.json"))
        folder.rename(out)
    return "\n".join(f"{len(rows):>6,}  {out / name}.csv" for name, rows in tables.items())


def read_concepts(path: Path) -> dict[str, dict[str, str]]:
    """Code points -> entry of openmoji's list, without the signs that only openmoji has."""
    try:
        entries = json.loads(path.read_text("utf-8"))
        return {e["hexcode"]: e for e in entries if not e["group"].startswith("extras") and e["annotation"] is not None}
    except FileNotFoundError:
        raise ValueError(f"{path}: does not exist; npm install openmoji, and name the folder of the packages") from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: is not openmoji's list of emoji ({type(error).__name__}: {error})") from None


def read_pngs(packages: Path, vendor: str) -> dict[str, Path]:
    """Concept -> the vendor's image."""
    folder = packages / f"emoji-datasource-{vendor}" / "img" / vendor / "64"
    found = {plain(path.stem): path for path in sorted(folder.glob("*.png"))}
    if not found:
        raise ValueError(f"{folder}: has no .png; npm install emoji-datasource-{vendor}")
    return found


def plain(name: str) -> str:
    """The same for one concept, whoever drew it."""
    return "-".join(code for code in name.upper().split("-") if code != VARIATION)


def choose(concepts: set[str], count: int, what: str) -> set[str]:
    """`count` of the concepts, always the same."""
    if len(concepts) < count:
        raise ValueError(f"has only {len(concepts):,} {what}, not {count:,}; lower --unseen or --style")
    return set(sorted(concepts, key=lambda concept: hashlib.sha256(concept.encode()).digest())[:count])


def copy(drawing: Path, image: Path) -> None:
    """Write a PNG of a drawing."""
    if drawing.suffix == ".svg":
        text = drawing.read_text("utf-8")
        try:
            png = resvg_py.svg_to_bytes(svg_string=text, width=EDGE, height=EDGE, skip_system_fonts=True)
        except ValueError as error:
            raise ValueError(f"{drawing}: cannot be drawn ({error})") from None
        image.write_bytes(png)
    else:
        shutil.copyfile(drawing, image)


def make_tokenizer(captions: list[str]) -> Tokenizer:
    """A small one with RoBERTa's special tokens: the 50,265 of RoBERTa's would be half the work of so small a model."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(captions, trainer)
    return tokenizer


if __name__ == "__main__":
    main()
