"""Hydra's plugins for completion, with words of ours."""

from collections.abc import Callable
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.completion_plugin import CompletionPlugin


def completions(following: Callable[[str], list[str]]) -> dict[str, Callable[[str], None]]:
    """Shell -> what prints its script (`install`, `uninstall`), or for `query` what is `following` the line in COMP_LINE."""

    def of(plugin: type[CompletionPlugin]) -> Callable[[str], None]:
        shell: Any = plugin(None)  # type: ignore[arg-type]
        for asked in (shell, getattr(shell, "delegate", shell)):  # zsh hands on to bash
            asked._query = lambda config_name, line: following(line)
        return lambda action: getattr(shell, action)(*([None] if action == "query" else []))

    plugins: list[Any] = list(Plugins.instance().discover(CompletionPlugin))
    return {plugin.provides(): of(plugin) for plugin in plugins}
