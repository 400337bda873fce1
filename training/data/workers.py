"""Many parts, many workers: Ray Data's actors on this machine or a cluster, or this process alone."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

Work = Callable[[int], dict[str, Any]]
_STORE = 128 << 20  # bytes of Ray's object store; only numbers travel through it
_TOGETHER = 8192  # numbers that Ray is given at once: it keeps some 8 KiB for each until the last of them is done


@dataclass
class Workers:
    """Where the work is done; a `with` block ends what it started.

    Args:
        count: Ray actors, each with models of its own; 0 is this process, without Ray.
        address: of a Ray cluster, as `ray.init` takes it; None starts one on this machine. A cluster's machines must
            have the pictures and the output under the same paths.
        gpus: of each actor, parts of one allowed.
    """

    count: int = 1
    address: str | None = None
    gpus: float = 0.0
    _started: bool = field(default=False, init=False)

    def __post_init__(self):
        if self.count < 0 or self.gpus < 0:
            raise ValueError(f"workers is {self.count} and gpus {self.gpus}; at least 0")

    def each(self, make: Callable[[], Work], numbers: Sequence[int]) -> Iterator[dict[str, Any]]:
        """`make()`'s result for each number, in any order; it is made once a worker, for thousands again.

        Raises:
            ValueError: what was wrong in a worker, or no cluster at the address.
            ModuleNotFoundError: without Ray.
        """
        if not numbers:
            return
        if not self.count:
            work = make()
            yield from map(work, numbers)
            return
        import ray.data

        self._start()
        ray.data.DataContext.get_current().enable_progress_bars = False
        for name in ("ray.data", "ray.data._internal.progress"):
            logging.getLogger(name).setLevel(logging.ERROR)
        for start in range(0, len(numbers), _TOGETHER):
            yield from self._together(make, numbers[start : start + _TOGETHER])

    def _together(self, make: Callable[[], Work], numbers: Sequence[int]) -> Iterator[dict[str, Any]]:
        """Numbers that Ray knows at once."""
        import ray.data

        results = ray.data.from_items(list(numbers), override_num_blocks=len(numbers)).map_batches(
            _Actor,
            fn_constructor_args=(make,),
            compute=ray.data.ActorPoolStrategy(size=min(self.count, len(numbers))),
            batch_size=1,
            num_cpus=1,
            num_gpus=self.gpus or None,
        )
        for row in results.iter_rows():
            result = json.loads(row["result"])
            if "error" in result:
                raise ValueError(result["error"])
            yield result

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        if self._started:
            import ray

            ray.shutdown()
            self._started = False

    def _start(self) -> None:
        """Ray, if it doesn't run yet."""
        import ray

        if ray.is_initialized():
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # reports to nobody unless asked to
        # "local": without an address Ray would join a cluster that happens to run on this machine
        here = dict(address="local", num_cpus=self.count, object_store_memory=_STORE, include_dashboard=False)
        quiet = dict(log_to_driver=False, logging_level=logging.ERROR)
        try:
            ray.init(**({"address": self.address} if self.address else here), **quiet)
        except ConnectionError as e:
            raise ValueError(
                f"address: no Ray cluster answers at {self.address} ({e}); is `ray start` running? One that wants a "
                "token needs RAY_AUTH_MODE=token here too"
            ) from e
        self._started = True


class _Actor:
    """What Ray Data runs; results are JSON, so that their columns don't matter."""

    def __init__(self, make: Callable[[], Work]):
        self.make, self.work = make, None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        try:
            self.work = self.work or self.make()
            results = [self.work(int(number)) for number in batch["item"]]
        except (ValueError, OSError, ImportError) as e:  # what a user can mend; Ray would bury it in its own
            results = [{"error": str(e) or type(e).__name__}]
        return {"result": [json.dumps(result) for result in results]}
