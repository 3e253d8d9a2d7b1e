"""Cross-image relations: how pixels of one image compare with those of others, in the batch and from earlier ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from kdcore.losses import functional
from kdcore.losses.base import Loss, Total, check_temperature, total_of
from kdcore.losses.functional import upcast
from kdcore.losses.maps import check_maps, through, unit
from kdcore.schedules import Scheduled
from kdcore.signals import Batch, Signals
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kdcore_segmentation.losses.class_queue import ClassQueue
from kdcore_segmentation.losses.maps import labels_at


class CrossImage(Loss):
    """``KL(softmax_b(t_ia . t_jb / T) || softmax_b(s_ia . s_jb / T))``, mean over pixels a and images i, j of a batch.

    The features s and t are made unit vectors; ``s_ia`` is that of pixel a of image i. Each image is compared with
    all images of the batch, itself included.

    **Shape**: student and teacher ``feature`` (N, C, H, W), bound with ``at:``; H and W equal, C need not be.

    **Reduction**: relational: ``sum`` is the value times N and ``count`` is N, the number of samples. The batch's
    ``mask`` and ``weight`` are not read.

    Memory: one block of HW x N HW at a time for each image; the backward pass makes it again. ``patch`` 2 makes it 16
    times smaller.

    Args:
        temperature: T, a number above 0 or a schedule; 0.1 as in the paper.
        patch: side of the square of positions that are averaged before they are compared; 1 by default, none.

    Raises:
        ValueError: ``temperature`` is not above 0; ``patch`` is below 1; the signals are no maps, or of other samples
            or spatial sizes.

    **Paper**: Yang et al., Cross-Image Relational Knowledge Distillation for Semantic Segmentation, CVPR 2022
    (arXiv 2204.06986), the mini-batch-based pixel-to-pixel part.
    **Deviation**: on several devices each compares the images of its own share of the batch.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student.feature", "teacher.feature"})
    signal: ClassVar[str] = "feature"
    relational: ClassVar[bool] = True

    def __init__(self, *, temperature: Scheduled = 0.1, patch: int = 1) -> None:
        super().__init__()
        check_temperature(temperature)
        if patch < 1:
            raise ValueError(f"patch={patch}: pixels are averaged over at least 1 x 1 position")
        self.temperature = temperature
        self.patch = patch

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        check_maps(student["feature"], teacher["feature"], channels=False)
        s, t = self._pixels(student["feature"]), self._pixels(teacher["feature"])
        n, _, pixels = s.shape
        temperature = self.now(self.temperature)
        added = torch.zeros((), device=s.device)
        for i in range(n):  # an image's pixels against those of all images
            added = added + _relations(s[i].T, s, t[i].T, t, temperature).sum()
        value = added / (n * n * pixels)
        return total_of(value * n, n)

    def _pixels(self, x: Tensor) -> Tensor:
        """(N, C, pixels), unit vectors."""
        x = upcast(x)
        if self.patch > 1:
            x = F.avg_pool2d(x, self.patch, ceil_mode=True, count_include_pad=False)
        return unit(x.flatten(2))


class CrossImageMemory(Loss):
    """``KL(softmax_k(t_a . v_k / T) || softmax_k(s_a . v_k / T))``, mean over labelled pixels a; v_k from memory.

    Two values: for ``pixel`` the v_k are pixels, for ``region`` the means of the pixels of one class in one image. Both
    come from the teacher and wait in a queue for each class, from which as many are drawn at random for each class.
    The student's features go through two 1 x 1 convolutions, which train with it, to the teacher's channels; then all
    features are made unit vectors.

    **Shape**: student and teacher ``feature`` (N, C, H, W), bound with ``at:``; H and W equal, C need not be.
    ``batch["labels"]`` int64 (N, H', W'), -100 = none, and optionally ``mask`` bool of the same shape: both are
    taken at the nearest positions where the map is smaller.

    **Reduction**: ``count`` is, for both, the number of the map's positions that have a label and that the mask keeps.
    The batch's ``weight`` is not read. ``weight: 0.1`` weighs both as the paper does.

    The queues are buffers: they are in checkpoints, and a resumed run draws what it would have drawn. While training,
    what this batch's teacher says is put in before the drawing. Nothing waits for the device.
    Memory: ``classes * (pixel_queue + region_queue) * C`` numbers of 4 bytes, 430 MB for 19 classes and 256 channels.

    Args:
        classes: number of classes; the task's when left out.
        temperature: T, a number above 0 or a schedule; 0.1 as in the paper.
        pixel_queue: pixels kept for each class; 20000 as in the paper.
        region_queue: regions kept for each class; 2000 as in the paper.
        pixels_per_image: pixels of each class that an image adds at most; 16 as the authors train with.
        pixel_contrast: how many pixels are drawn, over all classes; 4096 as in the paper.
        region_contrast: how many regions are drawn, over all classes; 1024 as in the paper.

    Raises:
        KeyError: the batch has no ``labels``.
        ValueError: ``temperature`` or a number is not above 0; a queue is too short for what one batch adds; the
            signals are no maps, or of other samples or spatial sizes; labels or mask do not fit.

    **Paper**: Yang et al., Cross-Image Relational Knowledge Distillation for Semantic Segmentation, CVPR 2022
    (arXiv 2204.06986), the memory-based pixel-to-pixel and pixel-to-region parts.
    **Deviations**: queues start empty, and a class is drawn from once there is something in its queue. Draws of one
    class may repeat. On several devices each queues its own share of the batch.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student.feature", "teacher.feature"})
    signal: ClassVar[str] = "feature"

    project: nn.Sequential
    pixels: ClassQueue
    regions: ClassQueue

    def __init__(
        self,
        *,
        classes: int,
        temperature: Scheduled = 0.1,
        pixel_queue: int = 20000,
        region_queue: int = 2000,
        pixels_per_image: int = 16,
        pixel_contrast: int = 4096,
        region_contrast: int = 1024,
    ) -> None:
        super().__init__()
        check_temperature(temperature)
        numbers = {
            "pixel_queue": pixel_queue,
            "region_queue": region_queue,
            "pixels_per_image": pixels_per_image,
            "pixel_contrast": pixel_contrast,
            "region_contrast": region_contrast,
        }
        for name, number in numbers.items():
            if number < 1:
                raise ValueError(f"{name}={number} is below 1")
        self.classes = classes
        self.temperature = temperature
        self.lengths = (pixel_queue, region_queue)
        self.pixels_per_image = pixels_per_image
        self.draws = tuple(math.ceil(number / classes) for number in (pixel_contrast, region_contrast))

    def setup(
        self, example: Mapping[str, Signals], facts: Mapping[str, int], models: Callable[[str], nn.Module]
    ) -> None:
        s, t = example["student"]["feature"], example["teacher"]["feature"]
        check_maps(s, t, channels=False)
        channels = t.shape[1]
        self.project = nn.Sequential(
            nn.Conv2d(s.shape[1], channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1, bias=False),
        )
        self.pixels, self.regions = (ClassQueue(self.classes, length, channels) for length in self.lengths)

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> dict[str, Total]:
        check_maps(student["feature"], teacher["feature"], channels=False)
        labels = labels_at(batch, student["feature"].shape[2:], "cirkd_memory").flatten(1)
        shown = labels.unsqueeze(1) == torch.arange(self.classes, device=labels.device).view(1, -1, 1)  # (N, K, HW)
        labelled = shown.any(1)
        s = unit(through(self.project, student["feature"]).flatten(2))
        # what stands without a label may be no number, and would stay in memory
        t = unit(functional.hide(teacher["feature"].flatten(2), labelled, 1)).to(s.dtype)
        if self.training:
            self._remember(t.detach(), shown)
        drawn = (self.pixels.draw(self.draws[0]), self.regions.draw(self.draws[1]))
        pixel, region = (self._total(s, t, labelled, *keys) for keys in drawn)
        return {"pixel": pixel, "region": region}

    @torch.no_grad()
    def _remember(self, teacher: Tensor, shown: Tensor) -> None:
        """Put some pixels of each class of each image, and their mean, into the queues."""
        n, channels, positions = teacher.shape
        chosen = min(self.pixels_per_image, positions)
        # the highest of random numbers are a random choice; those at other classes come last, and are no choice
        chances = torch.rand(n, 1, positions, device=teacher.device).masked_fill(~shown, -1.0)
        chances, at = chances.topk(chosen, dim=2)  # (N, K, chosen)
        vectors = teacher.unsqueeze(1).expand(-1, self.classes, -1, -1)
        vectors = vectors.gather(3, at.unsqueeze(2).expand(-1, -1, channels, -1))  # (N, K, C, chosen)
        self.pixels.put(vectors.permute(1, 0, 3, 2).flatten(1, 2), (chances >= 0).transpose(0, 1).flatten(1))
        one_hot = shown.to(teacher.dtype)
        sums = torch.einsum("ncp,nkp->knc", teacher, one_hot)
        self.regions.put(unit(sums, axis=2), shown.any(2).T)

    def _total(self, s: Tensor, t: Tensor, labelled: Tensor, keys: Tensor, there: Tensor) -> Total:
        """Against keys (keys, C), of which some may not be ``there`` yet."""
        columns = keys.T.unsqueeze(0).to(s.dtype)  # (1, C, keys)
        # with no key at all every position is without a label too, and any finite value will do
        hidden, temperature = ~there & there.any(), self.now(self.temperature)
        added = torch.zeros((), device=s.device)
        for ours, theirs, kept in zip(s, t, labelled, strict=True):
            terms = _relations(ours.T, columns, theirs.T, columns, temperature, hidden).squeeze(0)
            added = added + torch.where(kept, terms, 0.0).sum()
        return Total(added.float(), labelled.sum())


def _relations(
    student: Tensor,
    student_keys: Tensor,
    teacher: Tensor,
    teacher_keys: Tensor,
    temperature: float | Tensor,
    hidden: Tensor | None = None,
) -> Tensor:
    """Divergence of the similarities of pixels (A, C) to groups of keys (G, C, B) -> (G, A).

    The similarities are made again in the backward pass: they are by far the largest tensors here.
    """

    def terms(s: Tensor, s_keys: Tensor, t: Tensor, t_keys: Tensor) -> Tensor:
        ours, theirs = s @ s_keys, t @ t_keys  # (G, A, B)
        if hidden is not None:
            ours, theirs = (x.masked_fill(hidden, -torch.inf) for x in (ours, theirs))
        return functional.kl(ours, theirs, temperature=temperature)

    found: Tensor = checkpoint(
        terms, student, student_keys, teacher, teacher_keys, use_reentrant=False, preserve_rng_state=False
    )
    return found
