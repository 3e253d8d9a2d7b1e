"""The formulas of the losses, slowly: loops over nodes and edges."""

from __future__ import annotations

import math

from torch import Tensor


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    top = max(row)
    weights = [math.exp((value - top) / temperature) for value in row]
    return [weight / sum(weights) for weight in weights]


def kl(teacher: list[float], student: list[float], temperature: float = 1.0) -> float:
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True) if a > 0)


def low(student: Tensor, teacher: Tensor, edges: Tensor, temperature: float) -> float:
    s, t = student.tolist(), teacher.tolist()
    pairs = [*map(tuple, edges.T.tolist()), *((i, i) for i in range(len(s)))]
    return sum(kl(t[j], s[i], temperature) for j, i in pairs) / len(pairs)


def high(student: Tensor, teacher: Tensor, edges: Tensor, temperature: float) -> float:
    s, t = student.tolist(), teacher.tolist()

    def apart(rows: list[list[float]], j: int, i: int) -> list[float]:
        return [abs(a - b) for a, b in zip(rows[i], rows[j], strict=True)]

    pairs = list(map(tuple, edges.T.tolist()))
    return sum(kl(apart(t, j, i), apart(s, j, i), temperature) for j, i in pairs) / len(pairs)
