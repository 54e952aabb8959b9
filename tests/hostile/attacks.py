"""The attacks that were tried, and what becomes of each: `python -m tests.hostile.attacks` writes them into docs/security.md."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "security.md"
BEGIN, END = "<!-- begin: attacks -->\n", "<!-- end: attacks -->\n"

ATTACKS: dict[int, tuple[str, str]] = {
    1: ("tar members `../x`, `/abs`, `dir/../x`", "read where they lie; nothing is extracted"),
    2: ("tar links, devices, FIFO, folder in place of an image", "not followed: a record without an image"),
    3: ("tar sparse type, octal size 8 GiB, pax size 2^62, pax path 60 kB", "a gap, or left out; the rest of the tar is read"),
    4: ("tar pax `size=` or record length of 5,000 digits", "a gap; the rest of the tar is read"),
    5: ("tar of 80,000 headers with lying sizes", "gaps, in time linear in the bytes"),
    6: ("member names with ESC, OSC, `\\r`, newline", "shown as escapes"),
    7: ("HTML and scripts in captions, keys, eval.json, metrics", "escaped in every page"),
    8: ("captions of 500 kB, NUL, right-to-left marks, ESC", "read; escaped where they are shown"),
    9: ("`index.npy` with pickled objects", "refused, nothing is unpickled"),
    10: ("`index.npy` rows with impossible offsets, sizes, shards, counts", "each is a named fault"),
    11: ("`index.npy` with a broken header", "one line that names the file"),
    12: ("manifest shard name `../x`, `/etc/passwd`, `..`, empty", "refused"),
    13: ("manifest `image_size` 400000, \"x\", -5, 1.5", "refused"),
    14: ("image folder with `a.txt -> ~/.aws/credentials`", "refused, counted; `follow_links=true` allows it"),
    15: ("image links; table rows `../x.jpg`, `/abs/x.png`", "refused, counted; `follow_links=true` allows links"),
    16: ("FIFO as `a.txt` or `0.tar`; `0.tar -> /dev/zero`", "refused at once"),
    17: ("parquet dictionary of one 100 kB string, 20,000 rows", "refused: text takes at most 100 times the size of the file"),
    18: ("PNG of 10001 x 10001 or 100000 x 1; zTXt, iCCP bombs", "refused before decoding"),
    19: ("16-bit, APNG, animated WebP, EXIF and ICC floods, EPS", "first frame, or refused"),
    20: ("progressive JPEG with 1,000 empty scans", "a bad record, refused before decoding"),
    21: ("PNG RGBA 10000 x 9900, 414 kB", "a bad record, refused before decoding"),
    22: ("URLs to private, link-local, mapped, 6to4, decimal addresses", "refused"),
    23: ("URL to 192.0.0.192, 192.88.99.1, 3fff::/20", "refused on each Python"),
    24: ("redirects to file:, gopher:, private addresses", "refused"),
    25: ("DNS rebinding; answers that mix public and private", "only the judged address is connected to"),
    26: ("credentials over a redirect; cookies; HTTP_PROXY", "not sent; no proxy is used"),
    27: ("Content-Length -5 or twice, endless 1xx, 1-byte chunks", "bad response or timeout at the deadline"),
    28: ("endless headers, endless trailers", "refused after a fixed number"),
    29: ("the same, with the lowest allowed aiohttp", "refused after a fixed number"),
    30: ("gzip of 1 GB, deflate of 200 MB as Content-Encoding", "too large"),
    31: ("image that takes longer to decode than its deadline", "the decoder is killed, the row is counted"),
    32: ("ESC and HTML in the reason phrase or body", "kept in the log's detail, never printed"),
    33: ("`Retry-After: ²` with 503", "retried after the usual delay"),
    34: ("remote root: manifest as a gzip bomb, or endless", "refused at the limit"),
    35: ("remote root: index longer than its manifest declares", "refused at the declared size"),
    36: ("cache_dir that holds other files", "refused; no other file is ever evicted; a run's own is not used"),
    37: ("changed files planted in a shared cache_dir", "fetched again; folders of other owners are refused"),
    38: ("pickles that run code; TorchScript with os.system", "refused or inert: no code runs"),
    39: ("TorchScript whose modules share children", "each is read once"),
    40: ("TorchScript that contains itself; 300 MB in 292 kB", "refused"),
    41: ("safetensors with wrong shapes, offsets, overlaps, nesting", "refused"),
    42: ("optimizer state with a header of 2^63 bytes", "refused"),
    43: ("weight index with `../../etc/passwd`, or 200,000 `[`", "refused"),
    44: ("planted `./openai/clip-vit-base-patch16`", "its pickle is refused, and the path is printed"),
    45: ("run's config.yaml with `${oc.env:HF_TOKEN}`", "text: nothing in it is resolved"),
    46: ("config.yaml of 621 bytes with 22 nested aliases", "refused"),
    47: ("config.yaml: a run that starts from itself; unknown key; broken YAML", "the history ends; one line that names it"),
    48: ("eval.json image `/abs/passport.png`, `../x.png`", "not opened"),
    49: ("eval.json image `data:image/eps`", "not opened"),
    50: ("FIFO as eval.json image; FIFO metrics.jsonl", "not opened; refused at once"),
    51: ("metrics.jsonl with 5,000 digits, huge steps, 100,000 `[`", "the line is left out, and counted"),
    52: ("eval.json with a group among its figures; state.json `[]`", "one line that names the file"),
    53: ("tokenizer.json with `(a|aa)+$`; with the id 3,000,000,000", "one line; refused"),
    54: ("broken tokenizer.json or vocab.json beside weights", "one line that names the file"),
    55: (
        "`hydra.run.dir`, `+x._target_=os.system`, `experiment=../../x`",
        "refused, nothing is built; `--config-dir` adds YAML of yours, which sets keys and no more",
    ),
    56: ("dataset card of a hostile corpus: names, title, homepage, note", "text; names that a shell interprets are refused"),
    57: ("model card: licence with `\\r`, title, homepage", "text"),
    58: ("YAML header of both cards", "quoted"),
    59: ("`lock -> victim` in a shared folder", "refused, the victim is untouched"),
    60: ("`config.yaml.tmp -> victim`, `report.html.tmp -> victim`", "names cannot be foreseen; links are not written through"),
    61: ("`checkpoints/x.tmp -> victim folder`", "the link is removed, the victim is untouched"),
    62: ("decoders' sockets; shared memory", "open to the process's own user only"),
    63: ("rendezvous of launch/torchrun.sh on one host", "listens on 127.0.0.1 only"),
    64: ("monitor port: wrong secret, invalid UTF-8, 200 kB line, HTTP", "closed at once"),
    65: ("monitor port: non-ASCII greeting; 500 idle connections", "closed; a limit and a deadline for strangers"),
    66: ("Ray's port during `engine=ray`", "on 127.0.0.1, and refuses a client without the token"),
    67: ("the same, with the lowest allowed Ray", "the same"),
    68: ("`user:password@` in data.root and out", "shown and stored as `***@`"),
    69: ("the same in the exported folder", "not there"),
    70: ("launch/deepspeed.sh, two hosts, keys in the environment", "in no argument and no log"),
    71: ("launch/mpirun.sh, the same", "names only, no values"),
    72: ("overrides with `$()`, backticks, quotes through the launchers", "arrive byte for byte"),
    73: ("host file `vm slots=UID[$(cmd)]`", "refused"),
    74: ("user name, paths, host name in the export", "cards name the last part of a path"),
    75: ("`pipe:` in the source of `prep shards`, `::` and brackets included", "runs only with `allow_pipe=true`"),
    76: ("`keep` with calls, attributes, arithmetic, 3,000 `not`", "refused, nothing is evaluated"),
    77: ("parquet whose images take 100 times its size", "refused"),
    78: ("an index that names `../x.jpg`, `/etc`, links, FIFOs, folders, models elsewhere", "not opened, not contacted"),
    79: ("an index that claims more rows, longer keys, wider or longer embeddings than it has", "refused"),
    80: ("the search page: other hosts' names and origins, long texts, large or broken uploads, paths", "refused"),
}  # fmt: skip
"""Number -> (attack, what becomes of it)."""


def attack(number: int) -> pytest.MarkDecorator:
    """Marks a test as the one that tries attack `number`."""
    assert number in ATTACKS
    return pytest.mark.attack(number)


def table() -> str:
    """The attacks as a table in Markdown."""
    cells = {n: [text.replace("|", "\\|") for text in row] for n, row in ATTACKS.items()}
    rows = [f"| {n} | {tried} | {outcome} |" for n, (tried, outcome) in cells.items()]
    return "\n".join(["| # | attack | what becomes of it |", "|---|---|---|", *rows]) + "\n"


if __name__ == "__main__":
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + table() + END + rest.partition(END)[2])
