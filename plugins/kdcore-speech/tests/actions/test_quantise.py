"""A table of codes: what a model says of each clip, frame by frame."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from kdcore.data.digits import Digits
from kdcore.errors import RunError
from torch import Tensor, nn

from kdcore_speech.actions.quantise import Quantise
from kdcore_speech.data.fsdd import FSDD
from kdcore_speech.models.conv import conv, conv_tagger
from kdcore_speech.quantiser import Quantiser

LAYER = "encoder.blocks.0"


@pytest.fixture
def data(sound: Callable[..., Path], tmp_path: Path) -> FSDD:
    """Six clips to train on, of 0.5 to 1 s, and one in each other split."""
    for index, seconds in enumerate((1.5, 3.0, 2.1, 1.8, 2.7, 2.4), start=10):
        write_noise(sound(f"{index % 2}_anna_{index}.wav"), seconds, seed=index)
    for index in (0, 5):
        sound(f"0_anna_{index}.wav", 0.5)
        sound(f"1_anna_{index}.wav", 0.5)
    return FSDD(path=tmp_path, batch_size=4)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return conv(sample_rate=8000, vocabulary=5, width=12, depth=1, mels=8, stride=1).train()


def write_noise(path: Path, seconds: float, seed: int) -> None:
    """Tones would give few different frames."""
    wave = 0.1 * torch.randn(round(8000 * seconds), generator=torch.Generator().manual_seed(seed))
    soundfile.write(path, wave.numpy(), 8000)


def table(data: FSDD, net: nn.Module, **options: Any) -> dict[str, Tensor]:
    given = {"model": "teacher", "layer": LAYER, "codebooks": 2, **options}
    return Quantise(**given)({"teacher": net}.__getitem__, data)


def embeddings(net: nn.Module, data: FSDD) -> list[Tensor]:
    """Clip by clip, without any padding."""
    clips, found = data.split("train"), []
    assert clips is not None
    kept: list[Tensor] = []
    hook = net.get_submodule(LAYER).register_forward_hook(lambda _m, _a, output: kept.append(output))
    for row in range(len(clips)):
        audio = clips[row]["audio"]
        with torch.no_grad():
            net.eval()(audio.unsqueeze(0), torch.tensor([len(audio)]))
        found.append(kept.pop()[0])
    hook.remove()
    return found


def test_every_clip_has_the_codes_of_its_embeddings(data: FSDD, net: nn.Module, monkeypatch: pytest.MonkeyPatch):
    made: list[Quantiser] = []

    def kept(fitted: Callable[..., Quantiser], *args: Any, **options: Any) -> Quantiser:
        made.append(fitted(*args, **options))
        return made[-1]

    from kdcore_speech.actions import quantise

    original = quantise.fit
    monkeypatch.setattr(quantise, "fit", lambda *args, **options: kept(original, *args, **options))
    found = table(data, net, batch_size=3)
    clips = data.split("train")
    assert clips is not None
    assert torch.equal(found["id"], clips.ids)
    slowly = embeddings(net, data)
    assert found["codes_frames"].tolist() == [len(one) for one in slowly]
    assert (found["codes"].dtype, found["codes_frames"].dtype) == (torch.uint8, torch.int32)
    assert found["codes"].shape == (len(clips), max(map(len, slowly)), 2)
    for row, one in enumerate(slowly):
        # padding rounds otherwise, which may tip a code between entries that are equally near
        same = found["codes"][row, : len(one)] == made[0].encode(one)
        assert same.float().mean() > 0.97
        assert not found["codes"][row, len(one) :].any()


def test_the_batch_size_changes_next_to_nothing_and_modes_are_put_back(data: FSDD, net: nn.Module):
    first, again = (table(data, net, batch_size=size)["codes"] for size in (4, 4))
    assert torch.equal(first, again)
    assert net.training
    assert not net.get_submodule(LAYER)._forward_hooks


def test_what_is_lost_is_said(data: FSDD, net: nn.Module):
    table(data, net)
    (note,) = data.notes
    words, _, share = note.partition(", and ")
    assert words == f"codes of `teacher` at `{LAYER}`: 2 bytes a frame instead of 48"
    assert 0 < float(share.partition("%")[0]) < 60
    data.notes.clear()
    table(data, net, codebooks=4)
    assert float(data.notes[0].partition(", and ")[2].partition("%")[0]) < float(share.partition("%")[0])


def test_codebooks_of_some_of_the_clips(data: FSDD, net: nn.Module):
    some = table(data, net, frames=300)
    assert some["codes"].shape == table(data, net)["codes"].shape
    assert not torch.equal(some["codes"], table(data, net)["codes"])


def test_a_net_that_says_frames_only_by_its_method(data: FSDD, net: nn.Module):
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def frames(self, samples: Tensor) -> Tensor:
            return self.net.frames(samples)  # type: ignore[operator,no-any-return]

        def forward(self, audio: Tensor, audio_lengths: Tensor) -> Tensor:
            return self.net(audio, audio_lengths).logits  # type: ignore[no-any-return]

    assert torch.equal(table(data, Bare(), layer=f"net.{LAYER}")["codes"], table(data, net)["codes"])


def test_a_net_that_says_nothing_of_frames_is_refused(data: FSDD):
    class Silent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 4)

        def forward(self, audio: Tensor, audio_lengths: Tensor) -> Tensor:
            return self.layer(audio.unsqueeze(-1))  # type: ignore[no-any-return]

    with pytest.raises(RunError, match="a Silent does not say how many frames it makes of a clip"):
        table(data, Silent(), layer="layer")


def test_a_layer_without_frames_is_refused(data: FSDD, net: nn.Module):
    tagger = conv_tagger(sample_rate=8000, classes=3, width=12, depth=1, mels=8)
    words = (
        r"`speech\.quantise`: `head` of `teacher` gives the shape \(6, 3\); \(N, T, D\) is wanted, with T = \d+ frames"
    )
    with pytest.raises(RunError, match=words):
        table(data, tagger, layer="head")


def test_several_layers_are_refused(data: FSDD, net: nn.Module):
    with pytest.raises(RunError, match=r"codes one place, and `layer: encoder\.blocks\.0\.\*n\*` names 2"):
        table(data, net, layer="encoder.blocks.0.*n*")


def test_too_few_frames_are_said(data: FSDD, net: nn.Module):
    slow = conv(sample_rate=8000, vocabulary=5, width=12, depth=1, mels=8, stride=40)
    with pytest.raises(
        RunError, match=r"`speech\.quantise`: \d+ vectors are too few for codebooks of 256 entries: take"
    ):
        table(data, slow)


def test_data_without_sound_is_refused(net: nn.Module):
    action = Quantise(model="teacher", layer=LAYER)
    with pytest.raises(RunError, match=r"`speech\.quantise` reads training clips of sound, and the data is a Digits"):
        action({"teacher": net}.__getitem__, Digits())


@pytest.mark.parametrize("name", ["codebooks", "frames", "batch_size"])
def test_numbers_below_one_are_refused(name: str):
    with pytest.raises(ValueError, match=f"{name}=0: give at least 1"):
        Quantise(model="teacher", layer=LAYER, **{name: 0})  # type: ignore[arg-type]
