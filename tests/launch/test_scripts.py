"""What can be said of the launchers without a run."""

import subprocess

from tests.launch.launching import need
from tests.training.runs import ROOT


def test_shellcheck():
    need("shellcheck")
    scripts = [
        *sorted((ROOT / "launch").glob("*.sh")),
        *sorted((ROOT / "launch").glob("*.sbatch")),
        ROOT / ".ci" / "run",
    ]
    assert len(scripts) > 3
    checked = subprocess.run(["shellcheck", "-x", *scripts], capture_output=True, text=True, cwd=ROOT)
    assert checked.returncode == 0, checked.stdout
