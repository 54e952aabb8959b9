"""What `help` and `--help` print."""

USAGE = """usage: bridgetower <command> [key=value ...]

{commands}

  <command> --help        its keys, with the values that this run would get
  <command> --cfg job     the composed configuration
  <command> --multirun    one job for each combination of values: seed=0,1,2 optim.lr=1e-4,1e-3
  --config-dir FOLDER     more choices of the groups: FOLDER/experiment/mine.yaml is experiment=mine
  --shell-completion      install=bash, fish or zsh: eval "$(bridgetower --shell-completion install=bash)"
  --version"""


def overview(summaries: dict[str, str]) -> str:
    """All commands, or those of one first word such as `prep`."""
    width = max(map(len, summaries))
    return USAGE.format(commands="\n".join(f"  {name:{width}}  {text}" for name, text in summaries.items()))


def of_command(
    name: str, summary: str, example: str, schema: type, base: str | None, overrides: list[str], folder: str | None
) -> str:
    """The groups and keys of a command, with the values that these overrides and this folder of configurations give them."""
    from bridgetower_train import compose

    lines = [f"usage: bridgetower {name} [key=value ...]", "", summary, ""]
    if example:
        lines += [f"example: bridgetower {name} {example}", ""]
    if base:
        lines += ["groups", *(f"  {group}={'|'.join(names)}" for group, names in compose.groups(folder).items()), ""]
    if name == "eval":
        from bridgetower_train.evaluation import EVALUATIONS

        lines += ["evaluations", *(f"  bridgetower eval {given} --help" for given in EVALUATIONS), ""]
    lines += ["keys"]
    values = compose.values(schema, base, overrides, folder)
    for key, _, text in compose.field_docs(schema):
        lines += [f"  {key}={values[key]}", f"      {text}"]
    return "\n".join(lines)
