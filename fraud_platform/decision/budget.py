"""The budget of a decision: how long each stage may take, and until when the model may begin.

What belongs here: that arithmetic. What does not: the deadlines of what is waited for, which are the stores' own, and
measuring. Stages that run on the event loop cannot be stopped half way: one that overran is counted.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Stage = Literal["read", "request_features", "model", "log"]


@dataclass(frozen=True)
class Budget:
    """Milliseconds, as in the settings of the same names."""

    budget_ms: int
    network_ms: int
    read_deadline_ms: int
    request_features_ms: int
    model_ms: int
    log_ms: int

    @cached_property
    def seconds(self) -> dict[Stage, float]:
        """What each stage may take."""
        return {
            "read": self.read_deadline_ms / 1e3,
            "request_features": self.request_features_ms / 1e3,
            "model": self.model_ms / 1e3,
            "log": self.log_ms / 1e3,
        }

    @cached_property
    def model_by(self) -> float:
        """Seconds after which what is left is too little for the model, the record and the way back."""
        return (self.budget_ms - 2 * self.network_ms - self.model_ms - self.log_ms) / 1e3
