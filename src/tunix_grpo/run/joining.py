"""How a process becomes one of several that train together, and how it stops being one: never in silence.

JAX's own distributed runtime carries the cluster: a service in process 0, a client in each. When that runtime loses a
process it ends all others with a C++ trace; ours is the last word.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import dataclasses
import logging
import os
import signal
import time
import traceback
from collections.abc import Iterator
from typing import NoReturn

from tunix_grpo.config.distributed import DistributedConfig
from tunix_grpo.console.output import to_log_files
from tunix_grpo.errors import UserError, one_line
from tunix_grpo.hosts.cluster import ALONE, Hosts
from tunix_grpo.hosts.watch import GO_ON, Watch
from tunix_grpo.run.key_values import KeyValues

_log = logging.getLogger(__name__)
_LONGEST_START_S = 300.0
_RUNTIME_IS_SLOWER_S = 10  # so that our watch, which can name the host, finds out first
_INTERRUPTED = 130


@dataclasses.dataclass(frozen=True)
class Place:
    """What a process is told of its cluster.

    Attributes:
        coordinator: HOST:PORT of process 0.
        device: which of its host's devices is its own; None: all.
    """

    coordinator: str
    count: int
    index: int
    device: int | None = None


@dataclasses.dataclass(frozen=True)
class _Membership:
    hosts: Hosts
    watch: Watch
    timeout: float


_members: list[_Membership] = []  # at most one: a process joins once
_last_words = [""]  # what is said when the runtime ends this process


@contextlib.contextmanager
def joined(settings: DistributedConfig) -> Iterator[Hosts]:
    """Gives the processes that train together. Whoever leaves the block by an error of its own tells the others.

    Raises:
        UserError: they do not come together.
    """
    hosts = join(settings)
    try:
        yield hosts
    except UserError as error:
        if not hosts.is_known(error):
            _leave(str(error), str(error), error.exit_code)
        raise
    except BaseException as error:
        if hosts.count > 1:
            _leave_broken(error)
        raise


def join(settings: DistributedConfig) -> Hosts:
    """Returns the processes that train together, as this one sees them; joins them at the first call.

    Must be called before JAX touches a device.

    Raises:
        UserError: they do not come together.
    """
    if _members:
        return _members[0].hosts
    place = None if settings.hosts == "off" else _already()
    is_joined = place is not None
    place = place or place_of(settings)
    if place is None:
        return ALONE
    _have_the_last_word()
    if not is_joined:
        _connect(place, settings.timeout)
    store = KeyValues(_state().client)
    hosts = Hosts(place.index, place.count, store)
    watch = Watch(store, place.index, place.count, settings.timeout, end_process)
    watch.start()
    _members.append(_Membership(hosts, watch, settings.timeout))
    _last_words[0] = f"the other hosts cannot be reached, since one of them has ended; {GO_ON}"
    atexit.register(_finish)  # after JAX's own, which therefore comes later
    return hosts


def place_of(settings: DistributedConfig) -> Place | None:
    """Returns this process's place among several; None where it is alone.

    Raises:
        UserError: the cluster cannot be asked.
    """
    if settings.hosts == "off":
        return None
    if settings.coordinator is not None:
        assert settings.num_processes is not None
        assert settings.process_id is not None
        return Place(settings.coordinator, settings.num_processes, settings.process_id)
    try:
        return _found()
    except _UntoldError as error:
        raise UserError(
            f"distributed.hosts=auto: this process is one of several, and {error}; give distributed.coordinator, "
            "distributed.num_processes and distributed.process_id, or distributed.hosts=off"
        ) from error


def refuse_several(program: str) -> None:
    """Refuses to run a program in several processes that do not know of one another.

    Raises:
        UserError: a cluster has started this process as one of several.
    """
    try:
        place = _found()
        several = None if place is None else str(place.count)
    except _UntoldError:
        several = "several"
    if several is not None:
        raise UserError(
            f"{program} runs in one process, and this is one of {several}: start it once, without srun or mpirun; "
            "training alone runs on several hosts"
        )


def end_process(sentence: str, code: int = 1) -> NoReturn:
    """Ends this process at once: nothing that waits for another one is waited for."""
    with contextlib.suppress(Exception):
        to_log_files([f"error: {sentence}"])
    os.write(2, f"error: {sentence}\n".encode("utf-8", "backslashreplace"))
    os._exit(code)


class _UntoldError(Exception):
    """Says of a cluster that it has started several processes, and why it does not tell this one its place."""


def _found() -> Place | None:
    """Returns the place that SLURM, Open MPI, a TPU slice or Kubernetes gives this process among several.

    Raises:
        _UntoldError: the cluster does not tell it.
    """
    from jax._src.clusters import ClusterEnv  # what jax.distributed.initialize asks, before anything is decided

    for cluster in ClusterEnv._cluster_types:
        is_outside = cluster.name == "k8s" and "JOB_COMPLETION_INDEX" not in os.environ
        if cluster.opt_in_only_method or is_outside or not cluster.is_env_present():
            continue
        try:
            count = cluster.get_process_count()
            if count < 2:
                return None
            port = os.environ.get("JAX_COORDINATOR_PORT")
            address = cluster.get_coordinator_address(int(_LONGEST_START_S), port)
            device = cluster.get_local_process_id() if _share_a_host() else None
            return Place(address, count, cluster.get_process_id(), device)
        except (RuntimeError, ValueError, KeyError, OSError) as error:
            name = cluster.name or cluster.__name__
            raise _UntoldError(f"{name} does not tell its place ({one_line(error)})") from error
    return None


def _share_a_host() -> bool:
    """Says whether several processes of the cluster run on this host, which then share its devices, one each."""
    tasks, nodes = (int(os.environ.get(name, "1")) for name in ("SLURM_NTASKS", "SLURM_STEP_NUM_NODES"))
    return tasks > nodes or int(os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", "1")) > 1


def _state():
    """Returns what JAX knows of its distributed runtime."""
    from jax._src.distributed import global_state

    return global_state


def _already() -> Place | None:
    """Returns the place of a process that its caller has joined to others, as Ray's JaxTrainer does."""
    state = _state()
    if state.client is None or state.num_processes < 2:
        return None
    return Place(str(state.coordinator_address), state.num_processes, state.process_id)


def _connect(place: Place, timeout: float) -> None:
    """Joins the processes in JAX's distributed runtime."""
    import jax

    missing = (
        f"distributed.coordinator={place.coordinator}: not all {place.count} processes came together within "
        f"{max(_LONGEST_START_S, timeout):g} s; start all of them, with an address of process 0 that all can reach"
    )
    _last_words[0] = missing
    # Its handler of SIGTERM would take the place of ours.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator_address=place.coordinator,
            num_processes=place.count,
            process_id=place.index,
            local_device_ids=place.device,
            cluster_detection_method="deactivate",
            initialization_timeout=int(max(_LONGEST_START_S, timeout)),
            heartbeat_timeout_seconds=int(timeout) + _RUNTIME_IS_SLOWER_S,
            shutdown_timeout_seconds=int(timeout),
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{missing} ({one_line(error)})") from error


_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int)


@_Handler
def _say_last_words(number: int) -> None:
    del number
    end_process(_last_words[0])


def _have_the_last_word() -> None:
    """Lets a sentence follow what the runtime prints when it aborts this process.

    Python's own signal handlers run too late for that.
    """
    ctypes.CDLL(None).signal(int(signal.SIGABRT), _say_last_words)


def _leave_broken(error: BaseException) -> NoReturn:
    """Leaves after an error that is no user's."""
    import jax

    member = _members[0]
    if isinstance(error, jax.errors.JaxRuntimeError):
        # It may be what a device says of a host that is lost: the watch finds that out.
        time.sleep(member.timeout + 3.0)
    interrupted = isinstance(error, KeyboardInterrupt)
    reason = "stopped by Ctrl-C" if interrupted else f"{type(error).__name__}: {one_line(error)}"
    trace = reason if interrupted else "".join(traceback.format_exception(error))
    _leave(f"{reason}; {GO_ON}", trace, _INTERRUPTED if interrupted else 1)


def _leave(sentence: str, own: str, code: int) -> NoReturn:
    """Tells the others why this process ends, and ends it.

    Args:
        own: what this process says itself.
    """
    if not _members[0].watch.leave(sentence):
        time.sleep(60.0)  # the watch is ending this process
    end_process(own, code)


def _finish() -> None:
    """Waits for all to end, so that none takes another one for lost."""
    member = _members[0]
    member.hosts.barrier("the end")
    member.watch.stop()
