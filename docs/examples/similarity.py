# similarity.py
from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import normalize

from kdcore import Loss, Total, hookimpl, total_of


class Similarity(Loss):
    """Samples that are alike to the teacher should be alike to the student.

    **Shape**: student and teacher (N, ...), each of any size behind N.

    **Paper**: Tung and Mori, 2019 (arXiv 1907.09682), eq. 2 to 4.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student.feature", "teacher.feature"})
    signal: ClassVar[str] = "feature"
    relational: ClassVar[bool] = True

    def forward(self, student: dict[str, Tensor], teacher: dict[str, Tensor], batch: Any, **roles: Any) -> Total:
        ours, theirs = _similarities(student["feature"]), _similarities(teacher["feature"])
        n = len(ours)
        value = (ours - theirs).square().sum() / n**2
        return total_of(value * n, n)


def _similarities(feature: Tensor) -> Tensor:
    flat = feature.float().flatten(1)
    return normalize(flat @ flat.T, dim=1)


@hookimpl
def kdcore_register(add):
    add("loss", "similarity", Similarity)
