"""What the command line says itself, apart from what the files in conf/ say."""

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser


def given_keys() -> set[str]:
    """Returns the settings and groups that the command line names; none where no program of Hydra runs."""
    if not HydraConfig.initialized():
        return set()
    words = list(HydraConfig.get().overrides.task)
    # A group that is chosen for a place of its own, as task@evaluation.tasks.NAME, is another one than the group.
    return {
        override.key_or_group if override.package is None else f"{override.key_or_group}@{override.package}"
        for override in OverridesParser.create().parse_overrides(words)
    }
