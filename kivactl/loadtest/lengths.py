"""Random lengths: of prompts, answers and conversations; pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import Literal

Shape = Literal["fixed", "uniform", "normal", "lognormal"]


@dataclass(frozen=True, slots=True)
class Lengths:
    """A distribution of whole numbers.

    Attributes:
        shape: Of the distribution.
        mean: Its mean; for `fixed` the only value.
        sd: Standard deviation of `normal` and `lognormal`.
        least: What is drawn below counts as this; for `uniform` its lower end.
        most: What is drawn above counts as this; for `uniform` its upper end.
    """

    shape: Shape = "fixed"
    mean: float = 1
    sd: float = 0
    least: int = 1
    most: int = 1_000_000

    def draw(self, source: Random) -> int:
        """A length."""
        match self.shape:
            case "fixed":
                drawn = self.mean
            case "uniform":
                return source.randint(self.least, self.most)
            case "normal":
                drawn = source.gauss(self.mean, self.sd)
            case "lognormal":
                # So that mean and standard deviation are those of the lengths, not of their logarithms.
                variance = math.log1p((self.sd / self.mean) ** 2)
                drawn = source.lognormvariate(math.log(self.mean) - variance / 2, math.sqrt(variance))
        return min(self.most, max(self.least, round(drawn)))

    @property
    def average(self) -> float:
        """The mean, but for what `least` and `most` cut off."""
        return (self.least + self.most) / 2 if self.shape == "uniform" else self.mean

    @property
    def longest(self) -> int:
        """What no length exceeds: where the distribution has no end of its own, what one in some ten thousand does."""
        match self.shape:
            case "fixed":
                return round(self.mean)
            case "uniform":
                return self.most
            case "normal" | "lognormal":
                return min(self.most, round(self.mean + 4 * self.sd))
