"""What nets of the library transformers have in common: where they come from, and what they were made for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple


class Loaded(NamedTuple):
    """A net from a folder or the hub.

    Attributes:
        net: with its weights.
        fresh: names of the weights that were missing there, or of another shape, and are random.
    """

    net: Any
    fresh: frozenset[str]


def source_of(pretrained: Path | None, hub: str | None) -> str | None:
    """Where the weights are; ``None`` for fresh ones.

    Raises:
        ValueError: both are given.
    """
    if pretrained is not None and hub is not None:
        raise ValueError("`pretrained` and `hub` both say where the weights are: keep one of them")
    return hub if pretrained is None else str(pretrained)


def checked(options: Mapping[str, Any] | None, config: type) -> dict[str, Any]:
    """Options that a configuration has; transformers takes any, and ignores those that mean nothing to it.

    Raises:
        ValueError: it has no such field.
    """
    given = dict(options or {})
    unknown = sorted(set(given) - set(config().to_dict()))
    if unknown:
        raise ValueError(f"options.{unknown[0]}: {config.__name__} has no such field")
    return given


def config_of(source: str) -> Any:
    """The configuration that lies there.

    Raises:
        ValueError: there is none that transformers can read.
    """
    from transformers import AutoConfig

    with quietly():
        try:
            return AutoConfig.from_pretrained(source)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"no net of speech can be read from `{source}`: {first_line(error)}") from error


def loaded(kind: Any, source: str, options: Mapping[str, Any]) -> Loaded:
    """A net with the weights that lie there, in float32.

    Args:
        kind: the class of transformers.
        source: a folder, or a name of the hub.
        options: fields that differ from the configuration there.

    Raises:
        ValueError: there are no such weights.
    """
    import torch

    with quietly():
        try:
            net, info = kind.from_pretrained(
                source, ignore_mismatched_sizes=True, output_loading_info=True, dtype=torch.float32, **options
            )
        except (OSError, ValueError) as error:
            raise ValueError(f"no net of speech can be read from `{source}`: {first_line(error)}") from error
    return Loaded(net, frozenset({*map(str, info["missing_keys"]), *(str(one[0]) for one in info["mismatched_keys"])}))


def refuse_fresh(source: str, fresh: frozenset[str], *, head: str) -> None:
    """
    Raises:
        ValueError: weights outside of ``head`` are missing.
    """
    lost = sorted(key for key in fresh if not key.startswith(head))
    if lost:
        raise ValueError(f"`{source}` does not fit: {len(lost)} weights below the head are missing, first `{lost[0]}`")


def settings_of(source: str) -> dict[str, Any]:
    """What the feature extractor that was saved with a net does to waveforms; nothing where there is none."""
    from transformers.feature_extraction_utils import FeatureExtractionMixin

    with quietly():
        try:
            settings, _ = FeatureExtractionMixin.get_feature_extractor_dict(source)
        except OSError:
            return {}
    return dict(settings)


def check_rate(source: str, wanted: int, given: int) -> None:
    """
    Raises:
        ValueError: the net was trained with another sample rate than the data has.
    """
    if wanted != given:
        raise ValueError(f"`{source}` takes {wanted} Hz, the data has {given} Hz: set `data.sample_rate: {wanted}`")


def first_line(error: BaseException) -> str:
    """The beginning of what transformers has to say, which may be a page."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def quietly() -> Iterator[None]:
    """Without transformers' progress bars and remarks: what they have to say, an error here says."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging  # not annotated there
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
