"""What was meant by an override that cannot be: suggestions, each of which was composed before it is made."""

import difflib
import re
import shlex
from dataclasses import replace

from bridgetower_train.compose.keys import field_docs, type_of
from bridgetower_train.compose.node import MissingKeysError, Request, UnknownOverrideError, config_of
from bridgetower_train.compose.overrides import key_of, value_of
from bridgetower_train.errors import ConfigError, same

MEANT: dict[str, str | list[str]] = {
    "(total_|train_|global_)?batch(_size)?|bs": ["global_batch={}", "batch={}"],
    "per_(device|gpu)_(train_)?batch_size|micro_batch_size": "micro_batch={}",
    "((num|max|train|num_train)_)?epochs?": "steps='{} epochs'",
    "((num|max|train|total|max_train)_)?(steps|iters|iterations)": "steps={}",
    "lr|((base|max|peak)_)?(lr|learning_rate)": "optim.lr={}",
    "wd": "optim.weight_decay={}",
    "warmup_steps|warm_?up": "optim.warmup={}",
    "(lr_)?scheduler(_type)?": "optim.schedule={}",
    "grad(ient)?_clip(_val)?|clip_grad(_norm)?|max_grad_norm|clip": "optim.clip_norm={}",
    "num_workers|workers|dataloader_num_workers|loader_workers": ["data.workers={}", "workers={}"],
    "precision|dtype": "device.precision={}",
    "fp16|bf16|amp|mixed_precision": "device.precision=bf16",
    "compile|torch_compile": "device.execution=compile",
    "gradient_checkpointing|checkpoint_activations": "engine.activation_checkpointing={}",
    "zero_stage|zero": "engine=zero{}",
    "strategy": "engine={}",
    "(output|save|log|exp)_?dir|run": "run_dir={}",
    "data_?(dir|root|path)|dataset_dir": ["data.root={}", "root={}"],
    "datasets?": "data={}",
    "log(ging)?_(interval|steps|freq)": "log_every={}",
    "(save|checkpoint|ckpt)(_(interval|steps|freq|every))?": "checkpoint.every={}",
    "(eval|val|validation)(_(interval|steps|freq|every))?": "validation.every={}",
    "wandb(_project)?": "wandb.project={}",
    "img_size|image_res|resolution": ["model.image_size={}", "size={}"],
    "ckpt(_path)?|checkpoint(_path)?|weights|pretrained|model(_path)?": ["init.checkpoint={}", "run_dir={}"],
    "pictures": "images={}",
    "caption|prompts?|texts?": "texts=[{}]",
}
"""Key that other programs have -> what it is here, the first that can be composed."""

INSTEAD = {
    r"resume(_from_checkpoint)?=.*": ("resume_from", "the same command resumes by itself; leave it out"),
    r"(num_)?(gpus?|devices|cards|nproc_per_node|world_size)=.*": (
        "device.name", "write device=cuda; launch/torchrun.sh starts a rank on each card",
    ),
    r"(gradient_accumulation_steps|accumulate_grad_batches|grad_accum)=.*": (
        "micro_batch", "write micro_batch=N; as many of them as make up global_batch are accumulated",
    ),
    r"wandb(_project)?=(true|false|[01])": ("wandb.project", "write wandb.project=NAME"),
    r"(validation|eval|validate)=(true|false|[01])": ("validation.every", "write validation.every='1 epochs'"),
    r"(config(_name|_file)?=)?.*\.ya?ml": (
        "data.root", "a run is composed of keys: write experiment=NAME, of your own with --config-dir FOLDER",
    ),
}  # fmt: skip
"""What was written -> (a key of the commands that this is about, what to do instead)."""

_QUOTE = "'"
_SIMILAR = 0.6
_TRIED = 3


def answer(request: Request, error: UnknownOverrideError) -> str:
    """The message of an error, with what was meant, or else where to look."""
    advice = _advice(request, error.override)
    said = error.said if advice is None else error.said.partition(";")[0]
    return f"{error.override}: {said}; {advice or '--help lists the keys'}"


def of_flag(request: Request, flag: str, value: str | None) -> str | None:
    """What to write for `--flag value`; None where it stands for no key."""
    key, equals, given = flag.lstrip("-").partition("=")
    wrong = f"{key.replace('-', '_')}={given if equals else value or 'true'}"
    asked = replace(request, overrides=(*request.overrides, wrong))
    return f"write {wrong}" if _refusal(asked, wrong, wrong) is None else _advice(asked, wrong)


def _advice(request: Request, wrong: str) -> str | None:
    """What to write instead of an override; None where nothing is known that would be taken."""
    for pattern, (key, todo) in INSTEAD.items():
        if re.fullmatch(pattern, wrong.lstrip("+")) and type_of(request.schema, key):
            return todo
    likely = _likely(request, wrong)
    for right in likely or _similar(request, wrong):
        if _refusal(request, wrong, right) is None:
            return f"did you mean {right if _QUOTE in right else shlex.quote(right)}?"
    if likely and "=" in wrong:
        return f"{likely[0]} would be refused in turn: {_refusal(request, wrong, likely[0])}"
    return None


def _likely(request: Request, wrong: str) -> list[str]:
    """What other programs call so, or what is written so elsewhere."""
    schema, key, value = request.schema, key_of(wrong), value_of(wrong)
    if "=" not in wrong:
        return _of_word(request, wrong)
    found: list[str] = []
    for pattern, templates in MEANT.items():
        if re.fullmatch(pattern, key):
            for template in [templates] if isinstance(templates, str) else templates:
                found += dict.fromkeys((template.format(value), template.format(same(value))))
    return [right for right in found if type_of(schema, key_of(right)) or key_of(right) in request.groups]


def _of_word(request: Request, word: str) -> list[str]:
    """Overrides of which a word without `=` may be a part: `steps 50`, `model:tiny`, or the value of what is required."""
    after = request.overrides[request.overrides.index(word) + 1 :]
    found = [f"{word}={after[0]}"] if after and "=" not in after[0] else []
    found += ["=".join(word.rsplit(separator, 1)) for separator in (":", ".") if separator in word]
    return [*found, *(f"{key}={word}" for key in _required(request))]


def _required(request: Request) -> list[str]:
    try:
        config_of(replace(request, overrides=tuple(o for o in request.overrides if "=" in o)))
    except MissingKeysError as error:
        return error.keys
    except ConfigError:
        pass
    return []


def _similar(request: Request, wrong: str) -> list[str]:
    """The same with the keys that resemble its own most."""
    key, value = key_of(wrong), value_of(wrong)

    def likeness(known: str) -> float:
        return max(difflib.SequenceMatcher(None, key, part).ratio() for part in {known, known.rpartition(".")[2]})

    known = [name for name, _, _ in field_docs(request.schema)] + list(request.groups)
    best = sorted(known, key=likeness, reverse=True)[:_TRIED] if "=" in wrong else []
    switch = value.lower() in ("true", "false")  # which a text would take too
    return [
        f"{name}={value}"
        for name in best
        if likeness(name) >= _SIMILAR and not (switch and type_of(request.schema, name) in (str, str | None))
    ]


def _refusal(request: Request, wrong: str, right: str) -> str | None:
    """What is said against `right` in place of `wrong`, and not without it too; None if nothing."""
    words = [o for o in request.overrides if "=" not in o and "=" not in wrong]
    clean = tuple(o for o in request.overrides if o != wrong and o not in words)
    bare = replace(request, overrides=clean)
    said = _said(replace(bare, overrides=(*clean, right)))
    return None if said is None or said == _said(bare) else said


def _said(request: Request) -> str | None:
    try:
        config_of(request)
    except MissingKeysError:
        return None
    except ConfigError as error:
        return str(error)
    return None
