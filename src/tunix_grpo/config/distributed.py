"""Several processes that train one model together: the settings, and how they relate."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator
from pydantic.dataclasses import dataclass

from tunix_grpo.config import rules
from tunix_grpo.config.rules import GROUP, Number, Text, Whole


def address(value: str) -> str:
    """Checks an address of the form HOST:PORT."""
    if not re.fullmatch(r"\S+:\d{1,5}", value):
        raise ValueError("must be HOST:PORT, such as node7:9876")
    return value


# YAML reads a bare off as false.
Hosts = Annotated[Literal["auto", "off"], BeforeValidator(lambda value: "off" if value is False else value)]
Address = Annotated[Text, AfterValidator(address)]


@dataclass(kw_only=True, slots=True, config=GROUP)
class DistributedConfig:
    """Whether this process is one of several, on one host or many, that train one model together."""

    hosts: Hosts
    """auto: it is where SLURM (srun), Open MPI, a TPU slice, Kubernetes or the next three keys say so; off: never."""
    coordinator: Address | None = rules.hint("give HOST:PORT of process 0, or null for what the cluster says")
    """HOST:PORT of process 0, which all can reach; null is what the cluster says."""
    num_processes: Whole | None = rules.number(minimum=2, hint="null is what the cluster says")
    """Processes of the whole cluster, 2 or more; null is what the cluster says."""
    process_id: Whole | None = rules.number(minimum=0, hint="null is what the cluster says")
    """Number of this process, from 0; null is what the cluster says."""
    timeout: Number = rules.number(minimum=5, hint="usual are 30 to 300")
    """Seconds without a sign of life after which a host counts as lost, which ends the run on all of them, 5 or more.
    At the start they wait for one another for five minutes, or as long where that is longer."""


def all_or_none(coordinator: str | None, num_processes: int | None, process_id: int | None) -> str | None:
    """Checks that a process which is told its place is told all of it."""
    given = [value is not None for value in (coordinator, num_processes, process_id)]
    if any(given) and not all(given):
        return "the three belong together; give all, or none where the cluster tells them"
    if num_processes is not None and process_id is not None and process_id >= num_processes:
        return f"the processes of a cluster are numbered from 0 to {num_processes - 1}"
    return None


KEYS = ("distributed.coordinator", "distributed.num_processes", "distributed.process_id")
