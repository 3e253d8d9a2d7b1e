"""What is wrong with a recipe for detection beyond what signatures tell. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcore.errors import Problem
from kdcore.recipe.schema import LossSlot, ModelSlot, Recipe, Ref, Slot, Stage

DIGITS = "detection.digits"
PICTURES = "detection.pictures"
DIGIT_CLASSES = 10
DIGIT_SIZE = (64, 64)

FCOS, RETINANET, GFL = "detection.fcos", "detection.retinanet", "detection.gfl"
DENSE = (FCOS, RETINANET, GFL)
FASTER_RCNN = "detection.faster_rcnn"
DETR = ("detection.detr",)
SETS = (*DETR, "detection.rt_detr", "detection.d_fine")

TAKES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    **{model: {"student": (model,)} for model in (*DENSE, FASTER_RCNN)},
    "detection.set": {"student": SETS},
    "detection.lpld": {"student": (FASTER_RCNN,), "teacher": (FASTER_RCNN,)},
    **{f"detection.{name}": {"student": SETS, "teacher": SETS} for name in ("detr_logits", "detr_features")},
    "detection.detr_queries": {"student": DETR, "teacher": DETR},
    **{f"detection.{name}": {"student": DENSE, "teacher": DENSE} for name in ("bckd", "crosskd", "crosskd_boxes")},
    "detection.crosskd_distribution": {"student": (GFL,), "teacher": (GFL,)},
    "detection.ld": {"student": (GFL,), "teacher": (GFL,)},
}
"""Loss -> role -> the models whose signals it reads. Losses of taps read those of any."""

UNBOUND = {"detection.detr_features": ("memory", DETR)}
"""Loss -> a signal, and the models that give it; others must have it bound to a tap."""

ALIKE = ("detection.detr_logits",)
"""Losses that compare a softmax with a softmax, or sigmoids with sigmoids."""

SOFTMAX = ("kl", "divergence")
"""Losses of the core that compare classes among each other."""

LEVELS = [3, 4, 5, 6, 7]
"""Those of a dense detector whose slot gives none."""

STEPS = {FASTER_RCNN: 32, "detection.rt_detr": 32, "detection.d_fine": 32}
"""Models whose images are multiples of a number, whatever their slot says."""

FIXED = ("RandomCrop", "CenterCrop", "RandomResizedCrop", "Resize")
"""Transforms of torchvision that give pictures one size."""

VARYING = ("RandomIoUCrop", "RandomZoomOut", "ScaleJitter", "RandomShortestSize", "RandomResize")
"""Those that leave pictures of different sizes."""


@dataclass(frozen=True)
class Size:
    """The height and width of some pictures, and where the recipe says so."""

    height: int
    width: int
    path: str

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


def check_recipe(recipe: Recipe) -> list[Problem]:
    """Every problem of every stage, each once."""
    found = [problem for stage in recipe.stages.values() for problem in _stage(recipe, stage)]
    return [*dict.fromkeys(found), *_indivisible(recipe)]


def _stage(recipe: Recipe, stage: Stage) -> Iterator[Problem]:
    if stage.task.use != "detection.boxes":
        return
    for data in _data(stage.data):
        yield from _files(data)
        yield from _classes(recipe, stage, data)
    for chain in (stage.data.transform, *stage.data.views.values()):
        yield from _transforms(chain)
    for loss in stage.losses.values():
        yield from _loss(recipe, loss)


def _data(slot: Slot) -> Iterator[Slot]:
    """The data, and those it is mixed of."""
    yield slot
    for value in slot.args.values():
        if isinstance(value, Slot):
            yield from _data(value)


def _nets(recipe: Recipe, stage: Stage) -> list[ModelSlot]:
    return [recipe.models[name] for name in (*stage.train, *stage.teachers)]


# ---- files and classes


def _files(data: Slot) -> Iterator[Problem]:
    """Files that the data would not find."""
    if "path" not in data.args:
        return
    path = Path(data.args["path"])
    wanted, is_there = FILES.get(data.use), Path.is_dir if data.use == PICTURES else Path.is_file
    missing = [file for file in wanted(path, data.args) if not is_there(file)] if wanted else []
    if missing:
        yield Problem(_lack(path, missing[0]), "give the path of your data", f"{data.path}.path")


def _lack(path: Path, missing: Path) -> str:
    if missing == path:
        return f"{path}: there is no such file or folder"
    there = "" if path.exists() else ", because there is no such folder"
    return f"{path} lacks {missing.relative_to(path) if missing.is_relative_to(path) else missing}{there}"


def _coco_files(path: Path, args: Mapping[str, Any]) -> list[Path]:
    default = {split: f"annotations/instances_{split}2017.json" for split in ("train", "val")}
    return [path / file for file in (args.get("annotations") or default).values()]


def _voc_files(path: Path, args: Mapping[str, Any]) -> list[Path]:
    lists = args.get("lists") or {"train": "train", "val": "val"}
    return [path / "ImageSets" / "Main" / f"{name}.txt" for name in lists.values()]


def _yolo_files(path: Path, args: Mapping[str, Any]) -> list[Path]:
    return [path / "data.yaml" if path.is_dir() else path]


def _folder(path: Path, args: Mapping[str, Any]) -> list[Path]:
    return [path]


FILES: Mapping[str, Callable[[Path, Mapping[str, Any]], list[Path]]] = {
    "detection.coco": _coco_files,
    "detection.voc": _voc_files,
    "detection.yolo": _yolo_files,
    PICTURES: _folder,
}
"""What must be there, by data."""


def _classes(recipe: Recipe, stage: Stage, data: Slot) -> Iterator[Problem]:
    """The number of classes that the data has is that of the task and of every net."""
    names = data.args.get("class_names")
    classes = DIGIT_CLASSES if data.use == DIGITS else None if names is None else len(names)
    for slot in (stage.task, *_nets(recipe, stage)):
        said = slot.args.get("classes")
        if classes is not None and said is not None and said != classes:
            what = f"is {said}, but the data `{data.use}` has {classes}"
            yield Problem(what, "leave it out: it is filled in", f"{slot.path}.classes")


# ---- losses


def _loss(recipe: Recipe, loss: LossSlot) -> Iterator[Problem]:
    roles = {role: recipe.models[ref.model] for role, ref in loss.roles.items() if isinstance(ref, Ref)}
    for role, models in TAKES.get(loss.use, {}).items():
        model = roles.get(role)
        signal, giving = UNBOUND.get(loss.use, ("", models))
        if model is not None and model.use in models and model.use not in giving and not _binds(loss, role, signal):
            yield Problem(
                f"`{loss.use}` reads `{signal}` of {_either(giving)}, and the {role} is a `{model.use}`",
                "bind a map of both nets with `at:`",
                loss.path,
            )
        if model is not None and _of_another_kind(model, models):
            yield Problem(
                f"`{loss.use}` reads signals of {_either(models)}, and the {role} is a `{model.use}`",
                f"write `use: {_fitting(model.use)}`" if role == "student" and "teacher" not in TAKES[loss.use] else "",
                loss.path,
            )
    student, teacher = roles.get("student"), roles.get("teacher")
    if "teacher" in TAKES.get(loss.use, {}) and student is not None and teacher is not None:
        ours, theirs = _levels(student), _levels(teacher)
        if ours is not None and theirs is not None and ours != theirs:
            yield Problem(
                f"`{loss.use}` compares the two nets position by position, and `{_name(student)}` has the levels "
                f"{ours}, `{_name(teacher)}` {theirs}",
                "give both nets the same `levels`",
                loss.path,
            )
    if loss.use in ALIKE and student is not None and teacher is not None:
        kinds = [_kind(student), _kind(teacher)]
        if None not in kinds and kinds[0] != kinds[1]:
            yield Problem(
                f"`{loss.use}` compares like with like, and the logits of `{_name(student)}` are {kinds[0]}, those of "
                f"`{_name(teacher)}` {kinds[1]}",
                "take two nets alike: `detection.detr` twice, or neither",
                loss.path,
            )
    compares_logits = loss.signal is None or loss.signal == "logits"
    if loss.use == "cross_entropy" and student is not None and student.use.startswith("detection."):
        yield Problem(
            "`cross_entropy` reads `labels`, and boxes have none", f"write `use: {_fitting(student.use)}`", loss.path
        )
    if loss.use in SOFTMAX and compares_logits and student is not None and student.use in (*DENSE, *SETS[1:]):
        yield Problem(
            f"`{loss.use}` compares classes among each other, and `{student.use}` tells of each class by itself "
            "whether it is there",
            "`detection.bckd` compares them so" if student.use in DENSE else "`detection.detr_logits` compares them so",
            loss.path,
            level="warning",
        )


def _binds(loss: LossSlot, role: str, signal: str) -> bool:
    """Whether the recipe says itself what the loss reads as this signal."""
    return loss.signal is not None or f"{role}.{signal}" in loss.read


def _of_another_kind(model: ModelSlot, wanted: tuple[str, ...]) -> bool:
    """Models that are made of others (an average, an ensemble) are not judged."""
    return model.use.startswith("detection.") and model.use not in wanted


def _kind(model: ModelSlot) -> str | None:
    """What the logits of a set detector are."""
    if model.use not in SETS:
        return None
    return "a softmax with no-object" if model.use in DETR else "sigmoids"


def _levels(model: ModelSlot) -> list[int] | None:
    return list(model.args.get("levels") or LEVELS) if model.use in DENSE else None


def _fitting(model: str) -> str:
    """The loss that a model is trained with."""
    return "detection.set" if model in SETS else model


def _either(names: tuple[str, ...]) -> str:
    return " or ".join(f"`{name}`" for name in names)


def _name(model: ModelSlot) -> str:
    return model.path.rpartition(".")[2]


# ---- sizes


def _transforms(chain: Mapping[str, Slot]) -> Iterator[Problem]:
    """Transforms after which pictures do not fit into a batch, or boxes not to their labels."""
    varying: Slot | None = None
    for slot in chain.values():
        name = slot.args.get("name") if slot.use == "torchvision" else None
        if name == "SanitizeBoundingBoxes":
            yield Problem(
                "drops boxes without their labels", "leave it out: emptied boxes are dropped anyway", slot.path
            )
        if name in VARYING:
            varying = slot
        elif name in FIXED and _fixed(slot) is not None:
            varying = None
    if varying is not None:
        yield Problem(
            f"leaves pictures of different sizes after `{varying.args['name']}`, which no batch takes",
            "let a RandomCrop with `pad_if_needed: true`, or a Resize to [H, W], follow",
            varying.path,
        )


def _fixed(slot: Slot) -> Size | None:
    """The size that a transform gives all pictures."""
    given = (slot.args.get("options") or {}).get("size")
    sides = [given, given] if isinstance(given, int) else given
    if not (isinstance(sides, list | tuple) and len(sides) == 2 and all(isinstance(side, int) for side in sides)):
        return None
    if slot.args["name"] == "Resize" and isinstance(given, int):
        return None  # the shorter side alone
    height, width = sides
    return Size(height, width, f"{slot.path}.options.size")


def _sizes(stage: Stage) -> Iterator[Size]:
    """Of validation and test pictures, and of training pictures where a transform fixes it."""
    given = stage.data.args.get("size") or (DIGIT_SIZE if stage.data.use == DIGITS else None)
    if given is not None:
        height, width = given
        yield Size(height, width, f"{stage.data.path}.size")
    for chain in (stage.data.transform, *stage.data.views.values()):
        crops = [
            _fixed(slot) for slot in chain.values() if slot.use == "torchvision" and slot.args.get("name") in FIXED
        ]
        if crops and crops[-1] is not None:
            yield crops[-1]


def _indivisible(recipe: Recipe) -> Iterator[Problem]:
    """Pictures whose sides are no multiples of what a net wants, with all nets that want it."""
    wanted: dict[tuple[Size, int], list[str]] = {}
    for stage in recipe.stages.values():
        for size in _sizes(stage):
            for slot in _nets(recipe, stage):
                step = _step(slot)
                if step is not None and (size.height % step or size.width % step):
                    wanted.setdefault((size, step), []).append(_name(slot))
    for (size, step), names in wanted.items():
        fitting = [max(1, round(side / step)) * step for side in (size.height, size.width)]
        nets = " and ".join(f"`{name}`" for name in dict.fromkeys(names))
        yield Problem(f"is {size}, and multiples of {step} are wanted by {nets}", f"write {fitting}", size.path)


def _step(model: ModelSlot) -> int | None:
    levels = _levels(model)
    return STEPS.get(model.use) if levels is None else int(2 ** min(5, max(levels)))
