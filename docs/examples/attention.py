# attention.py
from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import normalize

from kdcore import Loss, Total, hookimpl, total_of


class AttentionTransfer(Loss):
    """Half the squared distance between normalised attention maps, mean over samples.

    **Shape**: student and teacher (N, C, ...), channels at axis 1; the axes after it are equal, channels need not be.

    **Reduction**: ``count`` is the number of samples.

    **Paper**: Zagoruyko and Komodakis, 2017 (arXiv 1612.03928), eq. 2.
    **Deviation**: the distance is squared, so that it has a gradient where the maps are equal.

    Args:
        power: channels are added up as ``|a|^power``; larger looks more at the strongest ones.

    Raises:
        ValueError: ``power`` is not above 0.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student.feature", "teacher.feature"})
    signal: ClassVar[str] = "feature"

    def __init__(self, *, power: float = 2.0) -> None:
        super().__init__()
        if not power > 0:
            raise ValueError(f"power={power} is not above 0")
        self.power = power

    def forward(self, student: dict[str, Tensor], teacher: dict[str, Tensor], batch: Any, **roles: Any) -> Total:
        difference = self._map(student["feature"]) - self._map(teacher["feature"])
        terms = 0.5 * difference.square().sum(1)
        return total_of(terms.sum(), len(terms))

    def _map(self, feature: Tensor) -> Tensor:
        """(N, C, ...) -> (N, positions), of length 1."""
        return normalize(feature.float().abs().pow(self.power).sum(1).flatten(1), dim=1)


@hookimpl
def kdcore_register(add):
    add("loss", "attention", AttentionTransfer)
