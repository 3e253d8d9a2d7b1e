"""DM-Codec: each channel of a codec's tokens should rise and fall over time as a channel of the teacher does."""

from __future__ import annotations

from typing import Any, ClassVar

from kdcore.losses.base import Loss, Total, total_of
from kdcore.losses.functional import cosine_distance
from kdcore.signals import Batch, Signals
from torch.nn.functional import logsigmoid

from kdcore_speech.losses.aligned import check_widths, frame_pairs


class DMCodec(Loss):
    """``-1/D sum_d log sigmoid(cos(s_d, t_d))``, s_d and t_d channel d of a clip over time; mean over clips.

    The student's feature is what its first quantiser gives, brought to the teacher's width by the tap's
    ``project: linear``. For a language and a speech model together give each a slot of weight 0.5; the paper takes
    their mean.

    **Shape**: ``student.feature`` (N, T, D), ``teacher.feature`` (N, T', D), ``frames`` (N,) of both. ``at:`` names the
    tap. The frames of both cover the same sound; of the teacher's, the nearest in time is taken. A teacher that read
    the transcript may have other moments (its tokens): they are stretched over the clip.

    **Reduction**: ``count`` is the number of clips N.

    Raises:
        ValueError: a feature is not (N, T, D); the widths differ.

    **Paper**: Ahasan et al., DM-Codec: Distilling Multimodal Representations for Speech Tokenization, 2024
    (arXiv 2410.15017), the distillation terms; their form is SpeechTokenizer's (Zhang et al., 2023, arXiv 2308.16692).
    **Deviations**: the paper lays token t of the text beside frame t of the sound and pads; here the text is
    stretched to the clip. Padding does not count. A channel that is zero throughout has the similarity 0. The codec's
    other terms (reconstruction, commitment, discriminators) are not here.
    """

    needs: ClassVar[frozenset[str]] = frozenset(
        {"student.feature", "student.frames", "teacher.feature", "teacher.frames"}
    )
    signal: ClassVar[str] = "feature"

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        ours, theirs, _ = frame_pairs(student, teacher)
        check_widths(ours, theirs, "give the tap a `project: linear`")
        terms = -logsigmoid(1.0 - cosine_distance(ours, theirs, axis=1)).mean(-1)  # hidden frames add 0 to a cosine
        return total_of(terms.sum(), len(terms))
