"""One thread for everybody; tiny nets and batches are in ``tiny``."""

from __future__ import annotations

import torch
from kdcore.testing.pytest_plugin import runner  # which pytest finds by itself where kdcore is installed

__all__ = ["runner"]

torch.set_num_threads(1)
