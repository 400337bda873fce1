"""The processes of a training: Accelerate's, and how they part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def accelerated(cpu: bool = False) -> Iterator[Any]:
    """An `accelerate.Accelerator` for the length of a training; its process group ends with it.

    After an error the group is left to the launcher: the other processes may still be inside a collective call.
    """
    import torch.distributed
    from accelerate import Accelerator
    from accelerate.utils import is_cuda_available, is_mps_available, is_npu_available, is_xpu_available

    if torch.distributed.is_available():
        # imported later, its functions' default arguments would keep the group, and its threads, past Python's end
        import torch.distributed.nn.functional

    # without a GPU and not told so, Accelerate leaves the processes of a launcher strangers to each other
    gpu = is_cuda_available() or is_mps_available() or is_npu_available() or is_xpu_available()
    accelerator = Accelerator(cpu=cpu or not gpu)
    yield accelerator
    accelerator.end_training()


@contextmanager
def finished(training: Any, accelerator: Any, save: Callable[[Any], Any]) -> Iterator[None]:
    """Write what a training has learned when it ends or is stopped, from the first process.

    A sharded one that is stopped has only its checkpoint: what was learned lies in all processes, which stop apart.

    Args:
        training: it has a `trainer`, and `learned()` for `save`.
    """
    stopped = True
    try:
        yield
        stopped = False
    finally:
        if training.trainer.step and not (stopped and training.trainer.sharded):
            learned = training.learned() if accelerator.is_main_process or training.trainer.sharded else None
            if accelerator.is_main_process:
                save(learned)
