"""Any transform of ``torchvision.transforms.v2``, made pure: the same sample and seed give the same pixels."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from kdcore.errors import RunError, did_you_mean
from kdcore.signals import IGNORE


class Torchvision:
    """One transform of ``torchvision.transforms.v2`` by name: ``{use: torchvision, name: RandomHorizontalFlip}``.

    ``image`` (C, H, W) is shown to it as an image, ``labels`` (H, W) of the same size as a mask, and whatever the data
    gives as a ``torchvision.tv_tensors`` type (boxes, keypoints) as that. All else passes untouched. Where the
    transform fills in new pixels (``fill``), masks get -100, no label, and images what ``options`` say, by default 0.

    Args:
        name: of the class, such as ``RandomResizedCrop``, ``ColorJitter``, ``RandAugment``.
        options: its keywords.

    Raises:
        RunError: torchvision is not installed.
        ValueError: there is no such transform, or it mixes samples (MixUp, CutMix), which one sample cannot.
        TypeError: it does not take these options.
    """

    def __init__(self, *, name: str, options: dict[str, Any] | None = None) -> None:
        try:
            from torchvision import tv_tensors  # takes a second to import
            from torchvision.transforms import v2
        except ImportError as error:
            raise RunError("the transform `torchvision` needs torchvision: pip install kdcore[images]") from error
        known = {
            key
            for key, one in vars(v2).items()
            if inspect.isclass(one) and issubclass(one, v2.Transform) and key not in ("Transform", "MixUp", "CutMix")
        }
        if name not in known:
            hint = did_you_mean(name, known)
            raise ValueError(f"name={name}: torchvision.transforms.v2 has no such transform; {hint}")
        kind = getattr(v2, name)
        arguments = dict(options or {})
        if "fill" in inspect.signature(kind.__init__).parameters:
            arguments["fill"] = {tv_tensors.Mask: IGNORE, "others": arguments.get("fill", 0)}
        self._transform = kind(**arguments)
        self._tv = tv_tensors

    def __call__(self, sample: dict[str, Any], seed: int) -> dict[str, Any]:
        """The sample as this transform shows it; the global random state is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            shown = self._transform({**sample, **self._typed(sample)})
        return {name: self._plain(value, sample[name]) for name, value in shown.items()}

    def _typed(self, sample: dict[str, Any]) -> dict[str, Any]:
        image, labels = sample.get("image"), sample.get("labels")
        typed: dict[str, Any] = {}
        if isinstance(image, torch.Tensor) and image.ndim == 3:
            typed["image"] = self._tv.Image(image)
            if isinstance(labels, torch.Tensor) and labels.shape == image.shape[1:]:
                typed["labels"] = self._tv.Mask(labels)
        return typed

    def _plain(self, value: Any, before: Any) -> Any:
        """A plain tensor where the sample held one; what the data gave as another type stays that."""
        if isinstance(value, self._tv.TVTensor) and not isinstance(before, self._tv.TVTensor):
            return value.as_subclass(torch.Tensor)
        return value
