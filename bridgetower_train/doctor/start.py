"""Where a new run would start: whether its initial weights can be had, and whether it can train what starts at random."""

from pathlib import Path

from bridgetower_train.config import Duration, TrainConfig
from bridgetower_train.doctor.data import refused
from bridgetower_train.errors import UserError
from bridgetower_train.findings import Finding, ok, warning
from bridgetower_train.weights import hub
from bridgetower_train.weights.checkpoint import step_folders
from bridgetower_train.weights.saved import locate

LOWEST_RATE = 1e-5
"""The lowest peak rate of towers in Microsoft's pretraining, which starts from trained ones."""
SPREAD = 0.02
"""Standard deviation of random weights."""


def check_start(config: TrainConfig) -> list[Finding]:
    """The initial weights; nothing is downloaded."""
    if step_folders(Path(config.run_dir)):
        return [ok("init", f"resume: {config.run_dir} has checkpoints")]
    sources = [check_source(key, given) for key, given in config.init.named.items()]
    return [*(sources or [ok("init", "random: all weights")]), *check_random(config)]


def check_source(key: str, given: str) -> Finding:
    """Whether the weights that `key` names are here or on the hub."""
    named = f"{key}={given}"
    try:
        found = hub.reach(given, named) if hub.is_name(given) else str(locate(given, named))
    except UserError as error:
        return refused(key, error)
    return ok(key, f"{given}: {found}")


def check_random(config: TrainConfig) -> list[Finding]:
    """Warnings where towers or losses that start at random cannot learn."""
    init, optim, objective = config.init, config.optim, config.objective
    started = {"image": init.vision or init.checkpoint, "text": init.text or init.checkpoint}
    random = [tower for tower, source in started.items() if not source]
    frozen = [tower for tower in random if tower in optim.freeze]
    findings = []
    if len(random) == 2 and not frozen and optim.lr < LOWEST_RATE:
        updates = SPREAD / optim.lr if optim.lr else float("inf")
        findings.append(
            warning(
                "optim.lr",
                f"both towers start at random, and an update moves a weight by about {optim.lr:g} at most: it takes "
                f"{updates:,.0f} in one direction to move one by the spread of random weights, {SPREAD:g}",
                f"start from trained towers (init.vision, init.text) or from a run (init.checkpoint), or raise optim.lr to "
                f"{LOWEST_RATE:g} or more",
            )
        )
    if frozen:
        todo = "name trained weights in init.vision, init.text or init.checkpoint, or leave these towers out of optim.freeze"
        findings.append(warning("optim.freeze", f"towers that start at random stay so: {', '.join(frozen)}", todo))
    hard = config.task == "pretraining" and objective.itm and objective.itm_negatives == "hard"
    if hard and not init.named and not Duration.parse("objective.hard_after", objective.hard_after).amount:
        todo = "set objective.hard_after=20%, or start from trained weights (init.checkpoint)"
        found = "hard from the first step, by similarities that are random: from random weights ITM learns nothing from them"
        findings.append(warning("objective.itm_negatives", found, todo))
    return findings
