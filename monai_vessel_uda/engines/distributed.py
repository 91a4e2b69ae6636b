"""Several processes for one stage, one for each GPU (or a part of the CPU's cores), started by ``torchrun``.

The configs ``multi_gpu_*.json`` call :func:`start` and :func:`finish`; between them, ``ignite.distributed`` tells every
other part which process it is. Without them there is one process, and everything here and there does nothing.
"""

import atexit
import faulthandler
import logging
import os
import sys
import time
from datetime import timedelta
from types import TracebackType

import ignite.distributed as idist
import torch
from torch import distributed, nn
from torch.distributed.elastic.multiprocessing.errors import get_error_handler
from torch.nn.parallel import DistributedDataParallel

from ..errors import InputError, mendable

GRACE_SECONDS = 3.0
"""A process waits so long before it reports an error that may be another's, too."""
EXIT_SECONDS = 60.0
"""A process that failed is gone after so long, even if a library hangs while the interpreter shuts down."""

_exit_code = 0


def local_device() -> torch.device:
    """This process's own GPU, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def start(device: torch.device | str, timeout_minutes: float = 120) -> None:
    """Join the other processes; from here on an error of one of them ends the job.

    Args:
        device: where this process computes. Between GPUs tensors travel by NCCL; barriers and objects, and everything
            between CPUs, by Gloo.
        timeout_minutes: longest wait for another process. A process that *fails* ends the job at once; this only ends
            one that waits for a process which never comes, and must exceed the longest work that one process does
            while the others wait.

    Raises:
        InputError: not started by ``torchrun``, or with more processes than there are GPUs.
    """
    sys.excepthook = _end_job
    atexit.register(_leave_at_once)  # before all others, so it runs after them
    device = _checked(torch.device(device))
    if "SLURM_JOB_ID" in os.environ:  # Ignite believes Slurm, for which torchrun is one task of several processes
        os.environ["SLURM_LOCALID"] = os.environ["LOCAL_RANK"]
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=timedelta(minutes=timeout_minutes))
    sys.excepthook = _end_job  # again: torch has put its own around it, which holds back what it prints
    idist.sync()
    logging.getLogger("ignite").setLevel(logging.CRITICAL)  # its errors also arrive as exceptions, reported below
    if idist.get_rank() > 0:
        logging.getLogger("monai_vessel_uda").setLevel(logging.ERROR)


def finish() -> None:
    """Wait for the other processes, then part from them."""
    idist.barrier()
    distributed.destroy_process_group()
    idist.sync()
    sys.excepthook = sys.__excepthook__


def parallel(network: nn.Module) -> nn.Module:
    """The network whose gradients are averaged over the processes; the network itself where there is only one.

    Only training goes through it. What is saved, averaged or sampled from is the network within, so files do not
    depend on the number of processes.
    """
    if idist.get_world_size() == 1:
        return network
    device = next(network.parameters()).device
    return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)


def share_of_batch(batch_size: int) -> int:
    """How many patches of a joint batch are this process's.

    Args:
        batch_size: patches in a step, over all processes together.

    Raises:
        InputError: not a multiple of the number of processes, or several processes that do not know of each other.
    """
    processes = idist.get_world_size()
    if processes == 1 and int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        raise InputError(
            "torchrun started several processes, but the config is for one; add multi_gpu_train.json to --config_file"
        )
    if batch_size % processes:
        raise InputError(
            f"batch_size: expected a multiple of {processes}, the number of processes that share it, got {batch_size}"
        )
    return batch_size // processes


def _checked(device: torch.device) -> torch.device:
    if "LOCAL_RANK" not in os.environ:
        raise InputError(
            "LOCAL_RANK: not set; start this config with 'torchrun --nproc_per_node N -m monai.bundle run …', or leave "
            "out the file multi_gpu_*.json"
        )
    if device.type == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        raise InputError(
            f"torchrun --nproc_per_node: expected at most {torch.cuda.device_count()}, the number of GPUs, got more"
        )
    return device


def _end_job(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Report the error that ends this process to the user and to ``torchrun``, which then ends the others.

    What the user can mend is one line. All but the first process's wait before they speak: another may have met the
    same, or this one may only have lost the connection to a process that failed, and ``torchrun`` ends it meanwhile.
    """
    global _exit_code
    if not isinstance(error, Exception):
        sys.__excepthook__(kind, error, trace)
        return
    faulthandler.dump_traceback_later(EXIT_SECONDS, exit=True)
    message = mendable(error)
    try:  # torchrun records what is being handled
        raise error if message is None else InputError(message) from None
    except InputError as told:
        _exit_code = 2
        if int(os.environ.get("RANK", "0")) > 0:
            time.sleep(GRACE_SECONDS)
        told.__traceback__ = None  # torchrun repeats what it is told, and the traceback says no more
        print(f"error: {message}", file=sys.stderr)
        get_error_handler().record_exception(told)
    except Exception:
        _exit_code = 1
        time.sleep(GRACE_SECONDS)
        sys.__excepthook__(kind, error, trace)
        get_error_handler().record_exception(error)


def _leave_at_once() -> None:
    """The last exit handler of a process that failed.

    What Python and the libraries would do after it takes seconds, in which the others would report the lost connection.
    """
    if _exit_code:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_exit_code)
