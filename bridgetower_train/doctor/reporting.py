"""Weights & Biases, without touching the network."""

import importlib.util
import os

from bridgetower_train.config import TrainConfig
from bridgetower_train.doctor.findings import Finding, fail, ok, warning


def check_reporting(config: TrainConfig) -> list[Finding]:
    """Whether a run would report to W&B, and how."""
    project = config.wandb.project
    if project is None:
        return [ok("W&B", "not used: wandb.project is not set")]
    if importlib.util.find_spec("wandb") is None:
        return [fail("W&B", f"wandb.project={project}, but wandb is not installed", "pip install wandb")]
    if os.environ.get("WANDB_MODE") in ("disabled", "dryrun"):
        found = f"WANDB_MODE={os.environ['WANDB_MODE']} stands against wandb.project={project}"
        return [warning("W&B", found, "unset WANDB_MODE, or leave wandb.project out")]
    if not os.environ.get("WANDB_API_KEY"):
        todo = "export WANDB_API_KEY=..., or upload the run later: wandb sync RUN_DIR/wandb/offline-run-*"
        return [warning("W&B", f"offline: no WANDB_API_KEY for {project}", todo)]
    return [ok("W&B", f"online to {config.wandb.entity or 'the owner of the key'}/{project}")]
