"""MVQ-KD's loss: codes told frame by frame, against a slow formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from embedded import FRAMES, coded, nearest, spoilt
from kdcore_speech.losses.mvq import MVQ


def made(given: dict[str, Any], codebooks: int = 3) -> MVQ:
    torch.manual_seed(0)
    loss = MVQ(codebooks=codebooks)
    loss.setup({"student": given["student"]}, {}, dict[str, nn.Module]().__getitem__)
    return loss


def test_the_value_is_that_of_the_definition():
    given = coded()
    loss = made(given)
    total = loss(given["student"], {}, given["batch"])
    assert total.count.item() == 9 + 5 + 2 + 7
    assert isinstance(loss.heads, nn.Linear)
    weight, bias = loss.heads.weight.detach(), loss.heads.bias.detach()
    added = 0.0
    for clip, count in enumerate(FRAMES.tolist()):
        for moment in range(count):
            scores = (weight @ given["student"]["feature"][clip, moment] + bias).tolist()
            for book in range(3):
                own = scores[256 * book : 256 * (book + 1)]
                code = int(given["batch"]["codes"][clip, nearest(clip, moment), book])
                added += math.log(sum(math.exp(x) for x in own)) - own[code]
    assert total.sum.item() == pytest.approx(added, rel=1e-5)


def test_a_student_that_knows_nothing_pays_for_every_byte():
    given = coded()
    loss = made(given)
    nn.init.zeros_(loss.heads.weight)  # type: ignore[arg-type]
    nn.init.zeros_(loss.heads.bias)  # type: ignore[arg-type]
    total = loss(given["student"], {}, given["batch"])
    assert (total.sum / total.count).item() == pytest.approx(3 * math.log(256), rel=1e-5)


def test_the_heads_can_learn_codes_of_frames():
    given = coded(codebooks=2, width=40)
    loss = made(given, 2)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        total = loss(given["student"], {}, given["batch"])
        (total.sum / total.count).backward()
        optimizer.step()
    assert total.sum / total.count < 0.1


@pytest.mark.parametrize("rubbish", [math.nan, math.inf])
def test_what_is_behind_a_clip_reaches_nothing(rubbish: float):
    given = coded()
    loss = made(given)
    plain = loss(given["student"], {}, given["batch"]).sum.item()
    student = spoilt(given["student"], rubbish)
    student["feature"].requires_grad_()
    codes = given["batch"]["codes"].clone()
    for clip, count in enumerate(given["batch"]["codes_frames"].tolist()):
        codes[clip, count:] = 255
    total = loss(student, {}, {**given["batch"], "codes": codes})
    total.sum.backward()
    assert total.sum.item() == pytest.approx(plain, rel=1e-6)
    assert student["feature"].grad is not None
    assert student["feature"].grad.isfinite().all()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in loss.parameters())


def test_a_table_of_the_whole_set_may_be_longer_than_the_batch():
    given = coded()
    loss = made(given)
    plain = loss(given["student"], {}, given["batch"])
    longer = torch.cat([given["batch"]["codes"], torch.zeros(4, 30, 3, dtype=torch.uint8)], 1)
    total = loss(given["student"], {}, {**given["batch"], "codes": longer})
    assert torch.equal(total.sum, plain.sum)


@pytest.mark.parametrize("missing", ["codes", "codes_frames"])
def test_a_batch_without_codes_is_refused(missing: str):
    given = coded()
    batch = {name: value for name, value in given["batch"].items() if name != missing}
    with pytest.raises(KeyError, match=r"write them by a stage `do: {use: speech\.quantise, \.\.\.}`, and give this"):
        made(given)(given["student"], {}, batch)


def test_another_number_of_codebooks_is_refused():
    given = coded()
    with pytest.raises(ValueError, match="the table has 3 codebooks, the loss 4: set `codebooks` to that"):
        made(given, 4)(given["student"], {}, given["batch"])
    with pytest.raises(ValueError, match="codebooks=0: give at least 1"):
        MVQ(codebooks=0)


def test_a_feature_without_frames_is_refused():
    given = coded()
    student = {**given["student"], "feature": torch.zeros(4, 6)}
    with pytest.raises(ValueError, match=r"the student's feature has shape \(4, 6\); frames \(N, T, D\) tell codes"):
        made(given)(student, {}, given["batch"])
