from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from kdcore.report.statistics import verdict
from torch import Tensor
from torchmetrics import Metric

from kdcore_speech.metrics import CER, EER, WER, ErrorRate, Impossible, equal_error_rate
from utterances import padded

WORDS: dict[str, Any] = {"symbols": ["", "zero", "one", "two"], "blank": 0, "separator": " "}
LETTERS: dict[str, Any] = {"symbols": ["", " ", "a", "b", "A"], "blank": 0, "separator": ""}


def value(metric: Metric, *pairs: tuple[Tensor, Tensor]) -> float:
    for pair in pairs:
        metric.update(*pair)
    return float(metric.compute())


def distance(said: list[str], heard: list[str]) -> int:
    """Levenshtein's, by the table."""
    row = list(range(len(heard) + 1))
    for i, a in enumerate(said, start=1):
        before, row[0] = row[0], i
        for j, b in enumerate(heard, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


# ---- error rates


def test_words_by_hand():
    heard, said = padded([[1, 2], [3]]), padded([[1, 3, 2], [3, 3, 3]])
    # one word is missing in the first, two in the second, of six: not the mean of 1/3 and 2/3
    assert value(WER(**WORDS), (heard, said)) == pytest.approx(3 / 6)
    assert value(WER(**WORDS), (padded([[1, 2, 3, 1]]), padded([[1]]))) == pytest.approx(3.0)
    assert value(WER(**WORDS), (padded([[]]), padded([[1, 2]]))) == 1


def test_characters_by_hand():
    # "a b" was heard as "ab": of three characters the space is missing
    assert value(CER(**LETTERS), (padded([[2, 3]]), padded([[2, 1, 3]]))) == pytest.approx(1 / 3)
    assert value(WER(**LETTERS), (padded([[2, 3]]), padded([[2, 1, 3]]))) == pytest.approx(2 / 2)


@pytest.mark.parametrize("kind", [WER, CER])
def test_as_by_the_table(kind: type[ErrorRate]):
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(1, 4, (int(n),), generator=generator).tolist() for n in torch.randint(1, 9, (24,))]
    heard, said = padded(rows[:12]), padded(rows[12:])
    errors = length = 0
    for a, b in zip(rows[12:], rows[:12], strict=True):
        texts = [" ".join(WORDS["symbols"][i] for i in ids) for ids in (a, b)]
        pieces = [text.split() if kind is WER else list(text) for text in texts]
        errors, length = errors + distance(*pieces), length + len(pieces[0])
    assert value(kind(**WORDS), (heard, said)) == pytest.approx(errors / length)


def test_batches_of_any_size_give_the_same():
    heard, said = padded([[1, 2], [3], [2]]), padded([[1, 3, 2], [3, 3, 3], [1]])
    parts = [(heard[i : i + 1], said[i : i + 1]) for i in range(3)]
    assert value(WER(**WORDS), *parts) == value(WER(**WORDS), (heard, said))


def test_without_a_transcript_a_clip_does_not_count():
    heard, said = padded([[1, 2], [3]]), padded([[1], []])
    assert value(WER(**WORDS), (heard, said)) == 1
    assert math.isnan(value(WER(**WORDS), (heard[1:], said[1:])))


def test_texts_are_compared_under_the_normaliser():
    pair = padded([[2, 3]]), padded([[4, 3]])  # "ab" and "Ab"
    assert value(CER(**LETTERS), pair) == 0.5
    assert value(CER(**LETTERS, normaliser="lower"), pair) == 0
    with pytest.raises(ValueError, match="there is no normaliser `x`"):
        WER(**WORDS, normaliser="x")  # type: ignore[arg-type]


def test_shares_make_the_metric_and_a_verdict():
    said = padded([[1, 2, 3]] * 12)
    good, bad = padded([[1, 2, 3]] * 12), padded([[1]] * 12)
    metric = WER(**WORDS)
    ours, theirs = metric.shares(good, said), metric.shares(bad, said)
    assert ours.tolist() == [[0, 3]] * 12
    assert theirs.tolist() == [[2, 3]] * 12
    assert float(metric.value_of(theirs.sum(0))) == pytest.approx(2 / 3)
    # less is better: the report exchanges the two
    found = verdict([2 / 3], paired_scores=(theirs, ours), value_of=metric.value_of)
    assert found.verdict == "better"
    assert found.p is not None
    assert found.p < 0.01


# ---- impossible transcripts


def test_transcripts_of_more_tokens_than_frames():
    tokens = padded([[1, 2, 2], [1, 2, 2], [1], []])
    frames = torch.tensor([4, 3, 1, 1])  # the first needs 4, for the repeat
    assert value(Impossible(), (frames, tokens)) == pytest.approx(1 / 3)
    assert math.isnan(value(Impossible(), (frames[3:], tokens[3:])))


# ---- equal error rate


def naive_eer(scores: list[float], equal: list[bool]) -> float:
    """Both rates at every threshold, and where the lines between them cross."""
    good = [s for s, e in zip(scores, equal, strict=True) if e]
    bad = [s for s, e in zip(scores, equal, strict=True) if not e]
    points = []
    for threshold in [math.inf, *sorted(set(scores), reverse=True)]:
        accepted = sum(s >= threshold for s in bad) / len(bad)
        points.append((accepted, 1 - sum(s >= threshold for s in good) / len(good)))
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x1 >= y1:
            share = (y0 - x0) / ((y0 - x0) - (y1 - x1))
            return x0 + share * (x1 - x0)
    raise AssertionError


def test_perfect_useless_and_wrong_scores():
    equal = torch.tensor([True, True, False, False])
    assert equal_error_rate(torch.tensor([0.9, 0.8, 0.1, 0.2]), equal) == 0
    assert equal_error_rate(torch.tensor([0.1, 0.2, 0.9, 0.8]), equal) == 1
    assert equal_error_rate(torch.zeros(4), equal) == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(5))
def test_eer_as_by_all_thresholds(seed: int):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(60, generator=generator).mul(4).round() / 4  # some are equal
    equal = torch.rand(60, generator=generator) < 0.4
    expected = naive_eer(scores.tolist(), equal.tolist())
    assert float(equal_error_rate(scores, equal)) == pytest.approx(expected, abs=1e-6)


def test_eer_of_embeddings_counts_every_pair_once_and_no_unknown_label():
    embedding = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0], [0.1, 3.0], [-1.0, 0.0]])
    labels = torch.tensor([4, 4, 7, 7, -100])
    assert value(EER(), (embedding[:2], labels[:2]), (embedding[2:], labels[2:])) == 0
    # the equal pairs, (0, 2) and (1, 3), lie opposite each other, the others at 60 and 120 degrees
    angle = torch.tensor([0.0, 60.0, 180.0, 240.0]).deg2rad()
    assert value(EER(), (torch.stack([angle.cos(), angle.sin()], 1), torch.tensor([4, 7, 4, 7]))) == 1


def test_eer_without_pairs_of_both_kinds_has_no_value():
    embedding = torch.eye(3)
    assert math.isnan(value(EER(), (embedding, torch.tensor([1, 1, 1]))))
    assert math.isnan(value(EER(), (embedding, torch.tensor([1, 2, 3]))))
