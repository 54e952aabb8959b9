"""`bridgetower export`: a run as a folder for transformers and the Hugging Face hub."""

from dataclasses import dataclass
from pathlib import Path

from bridgetower_train.config import at_least
from bridgetower_train.data.roots import root_of_run
from bridgetower_train.display import print_line
from bridgetower_train.errors import ConfigError
from bridgetower_train.evaluation.matching import calibrations
from bridgetower_train.pages.model_card import model_card
from bridgetower_train.weights import hub
from bridgetower_train.weights.export import write_export
from bridgetower_train.weights.hf_files import loadable_classes
from bridgetower_train.weights.saved import read_config, read_saved


@dataclass(frozen=True)
class ExportConfig:
    """`bridgetower export`."""

    run_dir: str = "???"
    """Folder of the run, which may be in progress."""
    out: str = "???"
    """Folder to write."""
    step: str = "newest"
    """Checkpoint to export: `newest`, `best` (see `checkpoint.best`), or a number of steps."""
    tokenizer: str | None = None
    """Where the run's tokenizer is now; null: where the run had it."""
    root: str | None = None
    """Folder or URL of the corpora, which the model card tells of; null: the run's `data.root`, if that is local."""
    licence: str | None = None
    """Licence of the weights for the model card, by the hub's name (`mit`, `apache-2.0`, ...); null: unknown."""
    carbon_kg: float | None = None
    """Emissions of the training for the model card, kg CO2-eq; null: unknown."""
    cost: str | None = None
    """Cost of the training for the model card, such as `1200 USD`; null: unknown."""
    push: bool = False
    """Upload the folder to the hub afterwards; needs `repo`, and a token in HF_TOKEN or from `hf auth login`."""
    repo: str | None = None
    """Name on the hub, owner/name."""
    private: bool = True
    """If `repo` is new, make it visible only to its owner."""

    def __post_init__(self) -> None:
        if self.carbon_kg is not None:
            at_least("carbon_kg", self.carbon_kg, 0)


def run(config: ExportConfig) -> int:
    """Write the folder, and upload it if requested."""
    run_dir, out = Path(config.run_dir), Path(config.out).absolute()
    if config.push:
        hub.check_push(config.repo)
    if out.exists() and not (out / "model.safetensors").is_file():
        raise ConfigError(f"out={config.out}: is there already and is not an export; choose another folder")
    read_config(run_dir)  # only a run can be exported
    saved, weights = read_saved(config.run_dir, config.step, config.tokenizer)
    root = root_of_run(saved.config.data.root, config.root)
    if root is None:
        shown = saved.config.data.root
        print_line(
            f"data.root of the run is remote ({shown}); for its corpora's sizes in the model card, give root=..."
        )
    name = config.repo or run_dir.resolve().name
    card = model_card(saved, name, root, config.licence, config.carbon_kg, config.cost)
    written = write_export(saved, weights, card, calibrations(saved), out)
    print_line(f"{config.out}: step {saved.step:,}{'' if written else ', already there, byte-identical'}")
    print(f"loads as {', '.join(loadable_classes(saved.config))} and BridgeTowerProcessor")
    if config.push:
        assert config.repo is not None
        print_line(f"uploaded to {hub.push(out, config.repo, config.private)}")
    return 0
