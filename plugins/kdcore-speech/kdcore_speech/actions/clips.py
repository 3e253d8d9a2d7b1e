"""What actions read: the training clips with their transcripts or labels."""

from __future__ import annotations

from kdcore.data.base import Data
from kdcore.errors import RunError

from kdcore_speech.data.base import Clips, SpeechData


def training_clips(data: Data, action: str, *answers: str) -> Clips:
    """The clips, each with one of ``answers`` (``tokens``, ``labels``).

    Raises:
        RunError: the data holds something else.
    """
    clips = data.split("train") if isinstance(data, SpeechData) else None
    if clips is None:
        raise RunError(f"`speech.{action}` reads training clips of sound, and the data is a {type(data).__name__}")
    if not any(answer in clips.answers for answer in answers):
        wanted, found = (" or ".join(f"`{name}`" for name in names) for names in (answers, clips.answers))
        raise RunError(
            f"`speech.{action}` reads clips with {wanted}, and the data ({type(data).__name__}) gives {found}"
        )
    return clips
