"""What a person sees while a recipe runs: our lines, not the chatter of the libraries below."""

from __future__ import annotations

import logging
import warnings

from lightning.pytorch.utilities import rank_zero_only


def quiet() -> None:
    """Silence remarks that say nothing about this run: hardware found, tips, loader workers, litmodels."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (".*does not have many workers.*", ".*The number of training batches.*", ".*lr_scheduler.step.*",
                    ".*Checkpoint directory.*exists.*", ".*`LeafSpec`.*", ".*isinstance.treespec.*"):  # fmt: skip
        warnings.filterwarnings("ignore", message)


@rank_zero_only
def say(line: str) -> None:
    """One line for the person who watches, from the first rank."""
    print(line, flush=True)
