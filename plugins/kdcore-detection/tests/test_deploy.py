from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kdcore.run.exporters import onnx, torch_export
from kdcore.task import set_input_statistics
from tiny import batch, detector, task
from torch import nn


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
