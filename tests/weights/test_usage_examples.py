"""The published usage examples, on an export.

They are read from the shared folder, and run with three things replaced: the names of the published models, the download of
images, and, since transformers gives a loss only to those who ask, the call that expects one.
"""

import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from bridgetower_train.cli import main
from bridgetower_train.data.image import decode_square
from bridgetower_train.tasks.pretraining.itc import itc_loss
from tests.training.runs import export_here
from tests.weights.test_export import ours, outputs, pixels_of

SEEDS = Path(__file__).resolve().parents[3] / "shared" / "seeds"
LITTLE = [
    "model.image_size=294", "model.patch_size=14", "model.width=64", "model.vision_layers=2", "model.text_layers=2",
    "model.fusion_layers=2", "model.vocab_size=50265", "device=cpu", "global_batch=4", "data.lanes=2", "tensorboard=false",
]  # fmt: skip


def blocks(text: str) -> list[str]:
    """The Python programs in a page: fenced, as a console session, or with the fences torn off."""
    text = re.sub(r"(?m) *\| *\|$", "", text.replace("\xa0", " "))  # one page became a table
    fenced = re.findall(r"```py(?:thon)?\n(.*?)```", text, re.DOTALL)
    torn = re.findall(r"(?ms)^thon\n(.*?)^(?:The following|Tips:)", text)
    return [program(block) for block in fenced + torn]


def program(block: str) -> str:
    """A block without console prompts and with what it prints as comments."""
    if ">>> " in block:
        lines = [line for line in block.splitlines() if line.startswith((">>>", "..."))]
        # The bodies of the loops, whose indentation some pages have lost.
        block = "\n".join(line[4:] if line.startswith(">>>") else f"    {line[4:].strip()}" for line in lines)
    block = textwrap.dedent(block)
    while True:
        try:
            compile(block, "example", "exec")
            return block
        except SyntaxError as error:  # prose whose # got lost
            lines = block.splitlines()
            number = (error.lineno or 1) - 1
            assert re.fullmatch(r"[\w .]+", lines[number]), f"no prose: {lines[number]!r} in\n{block}"
            lines[number] = "#"
            block = "\n".join(lines)


def localized(code: str, folder: Path, photographs: list[Path]) -> str:
    """The same on our export and our images."""
    code = re.sub(r'"BridgeTower/[\w-]+"', repr(str(folder)), code)
    for number, url in enumerate(dict.fromkeys(re.findall(r'"(https?://[^"]+)"', code))):
        code = code.replace(url, str(photographs[number]))
    code = re.sub(r"requests\.get\((\w+), stream=True\)\.raw", r'open(\1, "rb")', code)
    code = code.replace("model(**inputs)", "model(**inputs, return_loss=True)")
    if tuple(map(int, transformers.__version__.split(".")[:2])) < (4, 56):
        code = code.replace('dtype="auto"', 'torch_dtype="auto"')  # its name before
    assert "http" not in code
    return code


EXAMPLES = [
    pytest.param(page, number, id=f"{page.name.split('_')[0]}-{number}")
    for page in (sorted(SEEDS.glob("*.txt")) if SEEDS.is_dir() else [])
    for number in range(len(blocks(page.read_text())))
    if "from_pretrained" in blocks(page.read_text())[number]
]


@pytest.fixture(scope="module")
def trained(shared, tmp_path_factory) -> Path:
    """A little model of 294 pixels and RoBERTa's vocabulary, after three steps on photographs."""
    root = tmp_path_factory.mktemp("photographs")
    coco = shared / "photos" / "coco"
    prep = [
        "prep",
        "coco",
        f"images={coco / 'train2017'}",
        f"annotations={coco / 'annotations' / 'captions_train2017.json'}",
    ]
    assert main([*prep, f"out={root}", "workers=1"]) == 0
    run_dir = root / "run"
    assert main([
        "train", "data=coco", *LITTLE, f"data.root={root}", f"tokenizer={shared / 'tokenizer' / 'roberta-base'}", "steps=3",
        f"run_dir={run_dir}", "optim.lr=1e-3", "optim.lr_fusion=1e-3", "optim.lr_heads=1e-3",
    ]) == 0  # fmt: skip
    return run_dir


@pytest.fixture(scope="module")
def photo_export(trained, tmp_path_factory) -> Path:
    return export_here(trained, tmp_path_factory.mktemp("exported") / "photographs")


def test_there_are_examples(shared):
    assert len(EXAMPLES) == 13


@pytest.mark.parametrize(("page", "number"), EXAMPLES)
def test_usage_example(shared, trained, photo_export, page, number, capsys):
    photographs = sorted((shared / "photos" / "coco" / "val2017").glob("*.jpg"))
    code = localized(blocks(page.read_text())[number], photo_export, photographs)
    names: dict = {}
    exec(compile(code, str(page), "exec"), names)

    model = ours(trained)
    found, encoding = names["outputs"], names.get("encoding", names.get("inputs"))
    if "outputs_swapped" in names:
        assert len(encoding["input_ids"]) == 2
        swapped, first = losses(model, names, encoding)
        torch.testing.assert_close(names["outputs_swapped"].loss, swapped, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.loss, first, atol=1e-5, rtol=1e-5)
        assert f"Loss {found.loss.item()}" in capsys.readouterr().out
        return
    expected = outputs(model, encoding)
    if "ForMaskedLM" in code:
        torch.testing.assert_close(found.logits, expected["mlm"], atol=1e-5, rtol=1e-5)
        assert isinstance(names["results"], str)
        assert capsys.readouterr().out == names["results"] + "\n"
    elif "ForImageAndTextRetrieval" in code:
        torch.testing.assert_close(found.logits, expected["itm"], atol=1e-5, rtol=1e-5)
        assert list(names["scores"].values())[-1] == pytest.approx(expected["itm"][0, 1].item(), abs=1e-5)
        assert len(names["scores"]) == 2
    else:
        for key in ("text_embeds", "image_embeds", "cross_embeds"):
            torch.testing.assert_close(found[key], expected[key], atol=1e-5, rtol=1e-5)
        assert len(names["scores"]) == 2


def losses(model, names: dict, swapped):
    """Our loss of the example's pairs: with the texts swapped, and in order."""
    texts = names["processor"].tokenizer(names["texts"], padding=True, return_tensors="pt")
    for encoding in (swapped, {**swapped, "input_ids": texts["input_ids"], "attention_mask": texts["attention_mask"]}):
        given = outputs(model, encoding)
        embeddings = {key: given[f"{key}_embeds"] for key in ("text", "image", "cross")}
        loss, _ = itc_loss(embeddings, model.head("logit_scale").detach(), torch.arange(2), torch.arange(2), "hf")
        yield loss / 2


def test_images_are_294_wide_without_black_borders(shared, photo_export):
    """And what training makes of the same photographs."""
    processor = transformers.BridgeTowerProcessor.from_pretrained(photo_export)
    photographs = sorted((shared / "photos" / "coco").glob("*/*.jpg"))
    seen = 0
    for path in photographs:
        image = Image.open(path).convert("RGB")
        if max(image.size) > 5 / 3 * min(image.size):
            continue  # the class itself shrinks and pads those; the model card says so
        seen += 1
        encoding = processor(image, "text", return_tensors="pt")
        assert encoding["pixel_values"].shape == (1, 3, 294, 294)
        theirs = pixels_of(encoding)[0].permute(1, 2, 0).numpy()
        mine = np.empty((294, 294, 3), np.uint8)
        decode_square(path.read_bytes(), 294, "crop", mine)
        edges = [np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]]
        assert all(theirs[edge].max() > 0 or mine[edge].max() < 9 for edge in edges), path
        # Up to a pixel apart: the class rounds the longer edge up where training, as torchvision, rounds it down.
        coarse = [p.reshape(42, 7, 42, 7, 3).mean((1, 3)) for p in (theirs, mine)]
        assert np.abs(coarse[0] - coarse[1]).mean() < 3, path
    assert seen > 60
