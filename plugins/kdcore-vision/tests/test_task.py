from __future__ import annotations

import pytest
import torch
from kdcore.task import set_input_statistics
from kdcore.testing import check_task, samples
from torch import Tensor, nn
from torch.nn.functional import interpolate

from kdcore_vision.task import ClassifyImages, Deployed, as_floats, as_seen


class Seen(nn.Module):
    """Remembers what it saw; its logits are the mean of each channel."""

    def __init__(self, size: tuple[int, int] | None = None, names: list[str] | None = None) -> None:
        super().__init__()
        self.image_size, self.class_names = size, names
        self.saw: Tensor = torch.empty(0)

    def forward(self, image: Tensor) -> Tensor:
        self.saw = image
        return image.mean((-2, -1))


@pytest.fixture
def task() -> ClassifyImages:
    made = ClassifyImages(classes=3)
    made.facts |= {"channels": 3, "image_height": 8, "image_width": 8, "class_names": ["a", "b", "c"]}
    return made


def bytes_of(height: int = 8, width: int = 8) -> Tensor:
    return torch.randint(256, (2, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_it_keeps_what_a_task_promises():
    made = ClassifyImages(classes=samples.CLASSES)
    made.facts |= {"channels": 3, "image_height": 6, "image_width": 8}  # as the data completes them
    net = nn.Sequential(samples.map_net(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net.image_size = (12, 12)  # type: ignore[assignment]
    batch = samples.vectors()["batch"]
    image = torch.randint(256, (4, 3, 6, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    check_task(made, net, {**batch, "image": image})


def test_bytes_become_floats(task: ClassifyImages):
    net, image = Seen(), bytes_of()
    logits = task.signals(net, {"image": image}, {})["logits"]
    assert torch.equal(net.saw, image.float() / 255)
    assert torch.equal(logits, (image.float() / 255).mean((-2, -1)))
    assert torch.equal(as_floats(image.float() / 255), image.float() / 255)


def test_they_have_the_type_that_is_computed_in():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert as_floats(bytes_of()).dtype == torch.bfloat16
    finally:
        torch.set_default_dtype(before)


def test_each_net_sees_its_own_size_and_statistics(task: ClassifyImages):
    teacher, student = Seen((16, 12)), Seen((4, 4))
    set_input_statistics(student, [0.5], [0.25])
    batch = {"image": bytes_of()}
    task.signals(teacher, batch, {})
    task.signals(student, batch, {})
    floats = batch["image"].float() / 255
    assert teacher.saw.shape == (2, 3, 16, 12)
    blocks = floats.unfold(2, 2, 2).unfold(3, 2, 2)
    expected = interpolate(floats, size=(4, 4), mode="bilinear", antialias=True, align_corners=False)
    assert torch.allclose(student.saw, (expected - 0.5) / 0.25)
    assert (expected - blocks.mean((-2, -1))).abs().max() < 0.2  # a filter as wide as the reduction, no decimation
    assert batch["image"].dtype == torch.uint8


def test_a_size_that_fits_costs_nothing():
    image = torch.rand(2, 3, 4, 4)
    assert as_seen(Seen((4, 4)), image) is image


def test_a_net_that_knows_other_classes_is_refused(task: ClassifyImages):
    task.signals(Seen(names=["a", "b", "c"]), {"image": bytes_of()}, {})
    with pytest.raises(ValueError, match=(
        r"its classes are in another order than the data's: its output 0 is `b`, the data's class 0 is `a`. Give the "
        r"data the net's order: class_names: \[b, a, c\]"
    )):  # fmt: skip
        task.signals(Seen(names=["b", "a", "c"]), {"image": bytes_of()}, {})
    with pytest.raises(ValueError, match="its 3 classes are not those of the data: only the data has `c`"):
        task.signals(Seen(names=["a", "b", "d"]), {"image": bytes_of()}, {})
    with pytest.raises(ValueError, match="its 4 classes are not those of the data: only the net has `d`"):
        task.signals(Seen(names=["a", "b", "c", "d"]), {"image": bytes_of()}, {})


def test_data_without_names_compare_nothing():
    made = ClassifyImages(classes=3)
    made.signals(Seen(names=["x", "y", "z"]), {"image": bytes_of()}, {})


def test_a_picture_that_is_too_small_for_the_net(task: ClassifyImages):
    net = nn.Sequential(nn.Conv2d(3, 3, 9), nn.Flatten())
    with pytest.raises(ValueError, match=(
        r"it fails on pictures of 8x8 with 3 channels: Calculated padded input size.*: set `size: \[HEIGHT, WIDTH\]`"
    )):  # fmt: skip
        task.signals(net, {"image": bytes_of()}, {})


def test_no_memory_left_is_not_the_picture_s_fault(task: ClassifyImages):
    class Full(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("full")

    with pytest.raises(torch.OutOfMemoryError):
        task.signals(Full(), {"image": bytes_of()}, {})


def test_a_batch_without_pictures(task: ClassifyImages):
    with pytest.raises(KeyError, match="reads `image`, the batch holds: labels"):
        task.signals(Seen(), {"labels": torch.zeros(2)}, {})


def test_an_example_has_the_data_s_shape(task: ClassifyImages):
    assert task.example(2)["image"].shape == (2, 3, 8, 8)


def test_what_is_shipped_takes_bytes(task: ClassifyImages):
    net = Seen((4, 4))
    set_input_statistics(net, [0.5], [0.25])
    shipped, image = task.deploy(net), bytes_of()
    assert isinstance(shipped, Deployed)
    assert not shipped.training
    expected = task.signals(net, {"image": image}, {})["logits"].softmax(-1)
    assert torch.allclose(shipped(image), expected)
    assert torch.allclose(shipped(image.float() / 255), expected)
