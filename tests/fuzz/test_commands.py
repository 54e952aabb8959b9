"""No traceback reaches a user, whatever is wrong."""

import time

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from bridgetower_train import compose
from bridgetower_train.cli import COMMANDS as TABLE
from bridgetower_train.cli import load
from tests.fuzz.cases import COMMANDS, KINDS, Case, World, attempt, faults

VALUES = [
    "", " ", "null", "true", "-1", "0", "1", "3", "0.5", "1e-400", "1e400", "nan", "inf", "-inf", "99999999999999999999", "abc",
    "été", "a b", "a=b", "[1]", "[]", "{}", "{a: 1}", "[a,b]", "{a: {b: 1}}", "${x}", "${oc.env:NOPE}", "'", '"', "\\", "~", ".",
    "/dev/null", "/proc/self/mem", "a\0b", "a\nb", "\ud800", "x" * 300, "a/b", "http://127.0.0.1:9/x", "file://x", "???", "5%",
    "-5%", "1 epochs", "1e3 samples", "0 steps", "1,2", "range(3)", "step", "newest", "best", "image:1", "a:b",
]  # fmt: skip
"""Of keys; what would need a network, or take long where it is right, is not among them."""

LONG = {"steps", "records", "heldout", "size", "workers", "data.workers", "data.prefetch", "records_per_shard"}
"""Keys whose large values take long, or all of the machine."""

FOREVER = {"serve"}
"""Keys with which a command does not end."""

ENVIRONMENT = {
    "COLUMNS": ["0", "-1", "abc"], "NO_COLOR": ["1"], "TMPDIR": ["/nope", "/dev/null"], "OMP_NUM_THREADS": ["0", "abc"],
    "HOME": ["", "/nope"], "LANG": ["C", "xx"], "TZ": ["nope"], "WANDB_MODE": ["nope", "online"], "WANDB_API_KEY": ["x"],
    "HF_HOME": ["/dev/null"], "HF_TOKEN": ["x\ny"], "RAY_ADDRESS": ["nope"], "PATH": [""], "HTTP_PROXY": ["nope"],
    "AWS_ENDPOINT_URL": ["nope"], "TORCH_HOME": ["/dev/null"], "LOCAL_RANK": ["0"], "CUDA_VISIBLE_DEVICES": ["abc"],
    "XDG_CACHE_HOME": ["/dev/null"], "SLURM_JOB_ID": ["abc"], "KUBERNETES_SERVICE_HOST": ["x"],
}  # fmt: skip

PACKAGES = (
    "wandb", "tensorboard", "deepspeed", "s3fs", "ray", "imagehash", "huggingface_hub", "pyarrow.parquet", "psutil",
    "transformers", "simplejpeg", "webdataset", "aiohttp", "aiodns",
)  # fmt: skip


KEPT = [
    Case("view", ("device.recipe_cache=step", "í\U000ca754¶3Ï"), encoding="ascii"),
    Case("report", ("out=\x9a\U000e7914°oì",), encoding="latin-1"),
    Case("prep lint", ("listing=",)),
    Case("train", missing=("tensorboard",)),
]
"""What gave a traceback once."""


@st.composite
def cases(draw: st.DrawFn, world: World) -> Case:
    """One thing is wrong, or two."""
    command = draw(st.sampled_from(sorted(COMMANDS)))
    wrong = draw(
        st.sets(st.sampled_from(("keys", "files", "files", "env", "encoding", "missing")), min_size=1, max_size=2)
    )
    keys = draw(st.lists(_overrides(command), min_size=1, max_size=2)) if "keys" in wrong else []
    places = st.floats(0, 1, exclude_max=True)
    broken = st.tuples(st.sampled_from(world.files(command) or ["none"]), st.sampled_from(KINDS), places)
    files = draw(st.lists(broken, min_size=1, max_size=2, unique_by=lambda file: file[0])) if "files" in wrong else []
    names = draw(st.lists(st.sampled_from(sorted(ENVIRONMENT)), max_size=3, unique=True)) if "env" in wrong else []
    env = [(name, draw(st.sampled_from(ENVIRONMENT[name]))) for name in names]
    encoding = draw(st.sampled_from(("ascii", "latin-1", "cp1252", "utf-16"))) if "encoding" in wrong else "utf-8"
    missing = draw(st.lists(st.sampled_from(PACKAGES), min_size=1, max_size=2)) if "missing" in wrong else []
    return Case(command, tuple(keys), tuple(files), tuple(env), encoding, tuple(missing))


def _overrides(command: str) -> st.SearchStrategy[str]:
    name = command.removesuffix(" exported")
    schema = load(name)[1]
    known = [key for key, *_ in compose.field_docs(schema) if key not in FOREVER]
    known += list(compose.groups() if TABLE[name].base else ())
    texts = st.one_of(st.sampled_from(VALUES), st.text(max_size=6))

    def values(key: str) -> st.SearchStrategy[str]:
        small = st.sampled_from([value for value in VALUES if not value[:1].isdigit() or value in ("0", "1", "3")])
        return (small if key in LONG else texts).map(lambda value: f"{key}={value}")

    typed = st.sampled_from(known).flatmap(values)
    return st.one_of(typed, typed, typed, st.text(max_size=8), st.sampled_from(known))


def check(case: Case, world: World) -> None:
    found = faults(case, attempt(case, world))
    assert not found, f"{case}\n{found}"


@pytest.mark.parametrize("case", KEPT, ids=lambda case: case.command)
def test_what_was_found_once(world, case):
    check(case, world)


@given(st.data())
@settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None)
def test_no_traceback(world, data):
    check(data.draw(cases(world)), world)


@pytest.mark.nightly
def test_no_traceback_in_ten_minutes(world):
    began = time.monotonic()

    @seed(20261129)
    @given(st.data())
    @settings(max_examples=4000, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    def search(data):
        case = data.draw(cases(world))
        if time.monotonic() < began + 600:
            check(case, world)

    search()
