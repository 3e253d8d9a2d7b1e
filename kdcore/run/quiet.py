"""What a person sees while a recipe runs: our lines, not the chatter of the libraries below."""

from __future__ import annotations

import logging
import warnings

from lightning.pytorch.utilities import rank_zero_only

LOGGERS = ("lightning.pytorch", "lightning.fabric", "lightning")

REMARKS = (
    ".*does not have many workers.*",  # data in memory needs none
    ".*The number of training batches.*",  # we log at the end of each epoch too
    ".*lr_scheduler.step.*",  # a step that was skipped because of inf
    ".*Checkpoint directory.*exists.*",  # a resumed stage
    ".*`LeafSpec`.*",  # Lightning's use of torch
    ".*isinstance.treespec.*",
)


def quiet() -> None:
    """Silence remarks that say nothing about this run: hardware found, tips, loader workers, litmodels."""
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    for remark in REMARKS:
        warnings.filterwarnings("ignore", remark)


@rank_zero_only
def say(line: str) -> None:
    """One line for the person who watches, from the first rank."""
    print(line, flush=True)
