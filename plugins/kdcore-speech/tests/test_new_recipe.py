"""The template of `new-recipe speech.ctc`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kdcore.testing.runner import Runner


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "clips.jsonl"
    path.write_text(json.dumps({"audio_filepath": "a.wav", "text": "a"}), encoding="utf-8")
    return path


def made(runner: Runner, manifest: Path, *words: str) -> Path:
    recipe = manifest.parent / "mine.yaml"
    result = runner.kdcore("new-recipe", "speech.ctc", "--data", manifest, "--to", recipe, *words)
    assert result.code == 0, result.err
    return recipe


def test_it_makes_a_sound_recipe(runner: Runner, manifest: Path):
    weights = manifest.parent / "teacher.safetensors"
    weights.write_bytes(b"\x02\x00\x00\x00\x00\x00\x00\x00{}")
    assert "sound" in runner.check(made(runner, manifest, "--teacher", str(weights))).out


def test_without_a_teacher_it_says_what_to_do(runner: Runner, manifest: Path):
    recipe = made(runner, manifest)
    result = runner.kdcore("check", recipe)
    assert result.code == 2
    assert "the teacher `teacher` is untrained in stage `distil`" in result.err
    recipe.write_text(recipe.read_text(encoding="utf-8").replace("  # teach:", "  teach:"), encoding="utf-8")
    runner.check(recipe)
