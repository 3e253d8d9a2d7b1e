"""What is wrong with a recipe for segmentation beyond what signatures tell. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kdcore.errors import Problem
from kdcore.recipe.schema import ModelSlot, Recipe, Slot, Stage

from kdcore_segmentation.data.codes import plain_codes
from kdcore_segmentation.models.stride import stride

CLASSES = {"segmentation.digits": 11, "segmentation.camvid": 11, "segmentation.cityscapes": 19}
"""Classes of the data sets that know their own."""

DEFAULT_SIZE = {"segmentation.digits": (32, 32)}
"""Image sizes of data that has one when the recipe gives none."""

CROPS = ("RandomCrop", "CenterCrop", "RandomResizedCrop", "Resize")
"""Transforms of torchvision that change the size of training images."""


@dataclass(frozen=True)
class Size:
    """The height and width of some images, and where the recipe says so."""

    height: int
    width: int
    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


def check_recipe(recipe: Recipe) -> list[Problem]:
    """Every problem of every stage, each once."""
    found = [problem for stage in recipe.stages.values() for problem in _stage(recipe, stage)]
    return [*dict.fromkeys(found), *_indivisible(recipe)]


def _stage(recipe: Recipe, stage: Stage) -> Iterator[Problem]:
    if stage.data.use == "segmentation.folders":
        yield from _ignored(stage.data)
    yield from _classes(recipe, stage)
    yield from _crops_that_fit_not(stage)


def _nets(recipe: Recipe, stage: Stage) -> list[ModelSlot]:
    """The models of a stage; of several with the same slot (`alone: ${models.student}`) the first."""
    slots = [recipe.models[name] for name in (*stage.train, *stage.teachers)]
    return [slot for i, slot in enumerate(slots) if all(replace(slot, path=one.path) != one for one in slots[:i])]


# ---- classes and ignored values


def _known_classes(data: Slot) -> int | None:
    if data.use == "segmentation.folders":
        names = data.args.get("class_names")
        classes: int | None = data.args.get("classes", None if names is None else len(names))
        return classes
    return CLASSES.get(data.use)


def _ignored(data: Slot) -> Iterator[Problem]:
    """The numbers of classes and of no class, as the data itself would refuse them."""
    classes, names = _known_classes(data), data.args.get("class_names")
    if classes is None:
        yield Problem(
            "does not say how many classes there are", "add `classes: ...` or `class_names: [...]`", data.path
        )
        return
    if names is not None and len(names) != classes:
        what = f"is {classes}, but `class_names` has {len(names)}"
        yield Problem(what, "leave it out: the names are counted", f"{data.path}.classes")
    try:
        plain_codes(classes, data.args.get("ignore") or [255])
    except ValueError as error:
        key = "ignore" if str(error).startswith("ignore") else "classes"
        yield Problem(str(error), path=f"{data.path}.{key}")


def _classes(recipe: Recipe, stage: Stage) -> Iterator[Problem]:
    """The number of classes that the data has is that of the task and of every net."""
    classes = _known_classes(stage.data)
    for slot in (stage.task, *_nets(recipe, stage)):
        said = slot.args.get("classes")
        if classes is not None and said is not None and said != classes:
            what = f"is {said}, but the data `{stage.data.use}` has {classes}"
            yield Problem(what, "leave it out: it is filled in", f"{slot.path}.classes")


# ---- sizes


def _whole(data: Slot) -> Size | None:
    """Of validation and test images, where the recipe tells."""
    given = data.args.get("size") or DEFAULT_SIZE.get(data.use)
    if given is None:
        return None
    height, width = given
    return Size(height, width, f"{data.path}.size", "whole images")


def _cropped(stage: Stage) -> Size | None:
    """Of training images, where a transform fixes it: the last one decides."""
    found = [size for slot in stage.data.transform.values() if (size := _crop(slot)) is not None]
    return found[-1] if found else None


def _crop(slot: Slot) -> Size | None:
    options: Mapping[str, Any] = slot.args.get("options") or {}
    if slot.use != "torchvision" or slot.args.get("name") not in CROPS:
        return None
    given = options.get("size")
    sides = [given, given] if isinstance(given, int) else given
    if not (isinstance(sides, list | tuple) and len(sides) == 2 and all(isinstance(side, int) for side in sides)):
        return None
    if slot.args["name"] == "Resize" and isinstance(given, int):
        return None  # the shorter side alone
    height, width = sides
    return Size(height, width, f"{slot.path}.options.size", "crops")


def _crops_that_fit_not(stage: Stage) -> Iterator[Problem]:
    """A crop larger than the image needs padding."""
    whole = _whole(stage.data)
    for slot in stage.data.transform.values():
        crop = _crop(slot)
        if whole is None or crop is None or slot.args["name"] != "RandomCrop":
            continue
        too_large = crop.height > whole.height or crop.width > whole.width
        if too_large and not (slot.args.get("options") or {}).get("pad_if_needed"):
            yield Problem(
                f"is {crop}, larger than the images of {whole}",
                "set `pad_if_needed: true`, or a smaller size",
                crop.path,
            )


def _indivisible(recipe: Recipe) -> Iterator[Problem]:
    """Whole images or crops whose sides are no multiples of what a net wants, with all nets that want it."""
    wanted: dict[tuple[Size, int], list[str]] = {}
    for stage in recipe.stages.values():
        for size in filter(None, (_whole(stage.data), _cropped(stage))):
            for slot in _nets(recipe, stage):
                step = _step(slot)
                if step is not None and (size.height % step or size.width % step):
                    wanted.setdefault((size, step), []).append(slot.path.rpartition(".")[2])
    for (size, step), names in wanted.items():
        fitting = [max(1, round(side / step)) * step for side in (size.height, size.width)]
        nets = " and ".join(f"`{name}`" for name in dict.fromkeys(names))
        yield Problem(
            f"gives {size.what} of {size}, and multiples of {step} are wanted by {nets}",
            f"write {fitting}, or use the architecture `unet`, which takes every size",
            size.path,
        )


def _step(model: Slot) -> int | None:
    if model.use != "segmentation.smp":
        return None
    return stride(model.args.get("arch", "unet"), model.args.get("options") or {})
