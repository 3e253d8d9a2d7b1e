from __future__ import annotations

import torch

from kdcore_graph.data.batches import thinned


def test_mostly_zeros_become_sparse() -> None:
    eye = torch.eye(40)
    assert thinned(eye).layout == torch.sparse_csr
    assert torch.equal(thinned(eye).to_dense(), eye)


def test_what_is_dense_or_elsewhere_stays() -> None:
    full = torch.ones(4, 4)
    assert thinned(full) is full
    meta = torch.empty(4, 4, device="meta")
    assert thinned(meta) is meta
