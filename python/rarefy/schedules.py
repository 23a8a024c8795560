"""How much to prune when: the schedules of the papers, as functions of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .checks import check_fraction, describe, fail


@dataclass(frozen=True)
class CubicSchedule:
    """Sparsity that rises fast, then slowly (Zhu and Gupta, "To prune, or not to prune", 2017):

        s(t) = s_f + (s_i - s_f)·(1 - (t - begin)/(end - begin))³   for begin <= t <= end,

    s_i before and s_f after.
    """

    final: float
    begin: int
    end: int
    initial: float = 0.0

    def __post_init__(self) -> None:
        check_fraction("final", self.final)
        check_fraction("initial", self.initial)
        if not 0 <= self.begin < self.end:
            fail("end", f"a step after begin={self.begin} (of at least 0)", describe(self.end))

    def __call__(self, step: int) -> float:
        left = 1 - min(max((step - self.begin) / (self.end - self.begin), 0.0), 1.0)
        return self.final + (self.initial - self.final) * left**3


@dataclass(frozen=True)
class CosineSchedule:
    """Share of the blocks that is replaced in an update (Evci, Gale, Menick, Castro, Elsen, "Rigging the Lottery", 2020):

    f(t) = α/2·(1 + cos(π·t/T_end))   for t < T_end, 0 after.
    """

    fraction: float = 0.3
    end: int = 1

    def __post_init__(self) -> None:
        check_fraction("fraction", self.fraction)
        if self.end < 1:
            fail("end", "a step of at least 1", describe(self.end))

    def __call__(self, step: int) -> float:
        return 0.0 if step >= self.end else self.fraction / 2 * (1 + math.cos(math.pi * step / self.end))
