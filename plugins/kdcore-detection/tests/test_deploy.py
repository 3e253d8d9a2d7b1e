from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kdcore.run.exporters import onnx, torch_export
from kdcore.task import set_input_statistics
from tiny import batch, detector, task
from torch import Tensor, nn


def test_it_answers_what_is_scored():
    made, net, given = task(), detector(), batch()
    set_input_statistics(net, [0.5] * 3, [0.25] * 3)
    deployed = made.deploy(net)
    assert not net.training
    with torch.no_grad():
        found, _ = made.observe(made.signals(net, given, {}), {}, given)["detections_target"]
        answers = deployed(given["image"])
    assert list(answers) == ["boxes", "scores", "labels"]
    assert all(torch.equal(answers[name], getattr(found, name)) for name in answers)
    assert [one.dtype for one in answers.values()] == [torch.float32, torch.float32, torch.int64]


def test_each_image_is_answered_as_if_alone():
    deployed, image = task().deploy(detector()), batch()["image"]
    with torch.no_grad():
        together = deployed(image)
        alone = [deployed(image[i : i + 1]) for i in range(3)]
    for name, part in together.items():
        torch.testing.assert_close(part, torch.cat([one[name] for one in alone]), atol=1e-4, rtol=1e-5)


def test_a_classifier_is_refused():
    with pytest.raises(ValueError, match="a Linear is no detector: it gives no boxes to ship"):
        task().deploy(nn.Linear(1, 1))


# --- how far two answers are apart


def answer() -> dict[str, Tensor]:
    """Two images: two detections and room for one more; three, and no room."""
    boxes = torch.tensor([[10.0, 10.0, 20.0, 20.0], [0.0, 0.0, 90.0, 60.0], [30.0, 10.0, 40.0, 20.0]])
    scores = torch.tensor([[0.9, 0.5, 0.0], [0.8, 0.7, 0.6]])
    labels = torch.tensor([[0, 1, -1], [2, 2, 0]])
    return {"boxes": boxes * (scores > 0).unsqueeze(-1), "scores": scores, "labels": labels}


def apart(changed: dict[str, Tensor]) -> float:
    deployed = task().deploy(detector(score_threshold=0.3))
    difference = deployed.difference(list(answer().values()), list(changed.values()))
    assert difference == deployed.difference(list(changed.values()), list(answer().values()))
    assert isinstance(difference, float)
    return difference


def test_the_order_makes_no_difference():
    assert apart(answer()) == 0
    assert apart({name: x[:, [1, 0, 2]] for name, x in answer().items()}) == 0


def test_a_moved_box_does():
    changed = answer()
    changed["boxes"][1, 0, 0] += 0.01  # of 20, the largest
    assert apart(changed) == pytest.approx(0.01 / 20, rel=2e-3)


def test_another_score_does():
    changed = answer()
    changed["scores"][0, 0] -= 0.25
    assert apart(changed) == pytest.approx(0.25)


def test_another_class_does():
    changed = answer()
    changed["labels"][0, 0] = 1
    assert apart(changed) > 0.3


def test_a_missing_box_counts_by_how_sure_it_was():
    changed = answer()
    changed["scores"][0, 1], changed["labels"][0, 1], changed["boxes"][0, 1] = 0.0, -1, 0.0
    assert apart(changed) == pytest.approx(0.5 - 0.3)


def test_a_box_just_above_the_threshold_may_be_missing():
    more = answer()
    more["scores"][0, 2], more["labels"][0, 2], more["boxes"][0, 2] = 0.3001, 2, 30.0
    assert apart(more) == pytest.approx(1e-4, rel=1e-2)


def test_the_last_of_a_full_answer_may_be_another_one_as_good():
    changed = answer()
    changed["scores"][1, 2], changed["labels"][1, 2] = 0.6002, 1
    assert apart(changed) == pytest.approx(2e-4, rel=1e-2)


@pytest.mark.parametrize("name", ["boxes", "scores"])
def test_what_is_no_number_is_no_small_difference(name: str):
    changed = answer()
    changed[name][0] = torch.nan
    deployed = task().deploy(detector())
    answers = list(answer().values()), list(changed.values())
    assert not deployed.difference(*answers) < 1e-4
    assert not deployed.difference(*reversed(answers)) < 1e-4


# --- exported


@pytest.mark.slow
@pytest.mark.parametrize("export", [onnx, torch_export])
@pytest.mark.parametrize("kind", ["fcos", "retinanet", "gfl"])
def test_what_is_exported_gives_the_same_boxes(kind: str, export, tmp_path: Path):
    """The exporter compares the answers, at two sizes of batch, and removes what differs."""
    net = detector(kind, candidates=200, score_threshold=0.005)
    deployed, image = task().deploy(net), batch(4)["image"]
    with torch.no_grad():
        assert (deployed(image)["scores"] > 0).any(1).all()
    assert [path.exists() for path in export(deployed, (image,), tmp_path)] == [True]


@pytest.mark.slow
def test_onnx_runtime_gives_the_boxes_of_images_it_has_not_seen(tmp_path: Path):
    import onnxruntime

    deployed = task().deploy(detector("gfl", score_threshold=0.005))
    path = onnx(deployed, (batch(4)["image"],), tmp_path)[0]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    image = torch.rand(7, 3, 64, 96, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        ours = deployed(image)
    theirs = session.run(["boxes", "scores", "labels"], {"input": image.numpy()})
    assert (ours["scores"] > 0).any(1).all()
    for mine, other in zip(ours.values(), theirs, strict=True):
        torch.testing.assert_close(mine, torch.from_numpy(other), atol=1e-3, rtol=1e-4)
