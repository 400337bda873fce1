"""How strongly and when a method works, and on which rows of a network call."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .attention import Rows


@dataclass(frozen=True)
class Reach:
    """A strength within a part of the noise schedule.

    Args:
        strength: 0 is the untouched model, 1 what was learned.
        start_percent, end_percent: share of the noise schedule within which it works, 0 (pure noise) to 1 (clean).

    Raises:
        ValueError: start and end that are not within 0..1 in this order.
    """

    strength: float = 1.0
    start_percent: float = 0.0
    end_percent: float = 1.0

    def __post_init__(self):
        if not 0 <= self.start_percent <= self.end_percent <= 1:
            raise ValueError(
                f"start_percent is {self.start_percent} and end_percent {self.end_percent}; "
                "both within 0..1, the start first"
            )

    def weight(self, timestep: Tensor, steps: int) -> Tensor:
        """Strength for each row, 0 outside of its percents; timesteps (R,) of a schedule of so many steps."""
        done = 1 - timestep / (steps - 1)
        return self.strength * ((done >= self.start_percent) & (done <= self.end_percent)).to(timestep)


class Reached:
    """The rows that a method works on: those that follow their prompt, while it reaches.

    Args:
        every: whether it also works on those that follow the negative one.

    Attributes:
        weight: strength of each row, (R,).
        on: bool, (R,).
        where: those rows as an index; a slice where they lie together, which costs no copy.
        some, every: whether any and whether all rows are on; asked of the device once.
    """

    def __init__(self, reach: Reach, steps: int, rows: Rows, every: bool = False):
        weight = reach.weight(rows.timestep, steps)
        self.weight = weight if every else weight * rows.conditional
        self.on = self.weight != 0
        numbers = [i for i, on in enumerate(self.on.tolist()) if on]
        self.some, self.every = bool(numbers), len(numbers) == len(self.on)
        together = self.some and numbers[-1] - numbers[0] + 1 == len(numbers)
        self.where = slice(numbers[0], numbers[-1] + 1) if together else self.on
        self._strength = reach.strength

    def scale(self, x: Tensor) -> Tensor:
        """Values of the rows that are on, times their strength."""
        return x if self._strength == 1 else x * self.weight[self.where].to(x).reshape(-1, *[1] * (x.ndim - 1))

    def add(self, to: Tensor, x: Tensor) -> Tensor:
        """Add values of the rows that are on; the others stay bit for bit."""
        if self.every:
            return to + self.scale(x)
        to = to.clone()
        to[self.where] += self.scale(x).to(to.dtype)
        return to
