"""The words after a verb."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdcore.errors import RecipeError
from kdcore.recipe.arguments import split_arguments

from .conftest import Write

SHIPPED = {"quickstart": Path("/shipped/quickstart.yaml"), "detection.coco": Path("/plugin/coco.yaml")}


@pytest.mark.parametrize(
    ("words", "sources", "overrides"),
    [
        (["a.yaml", "lr=3", "b.yml"], ["a.yaml", "b.yml"], ["lr=3"]),
        (["sub/recipe", "~losses.kd"], ["sub/recipe"], ["~losses.kd"]),
        (["quickstart", "name=x=y"], ["/shipped/quickstart.yaml"], ["name=x=y"]),
        (["detection.coco"], ["/plugin/coco.yaml"], []),
        (["missing.yaml", "sub/missing"], ["missing.yaml", "sub/missing"], []),
        (["~nobody-here/x.yaml"], ["~nobody-here/x.yaml"], []),
        (["a..b=1", "=1"], [], ["a..b=1", "=1"]),
        ([], [], []),
    ],
)
def test_words_are_sorted(words: list[str], sources: list[str], overrides: list[str]) -> None:
    assert split_arguments(words, SHIPPED) == (tuple(Path(source) for source in sources), tuple(overrides))


def test_a_file_that_is_there_wins(write: Write) -> None:
    for name in ("quickstart", "a=b.yaml", "~kd"):
        write("", name)
    sources, overrides = split_arguments(["quickstart", "a=b.yaml", "~kd"], SHIPPED)
    assert sources == (Path("quickstart"), Path("a=b.yaml"), Path("~kd"))
    assert overrides == ()


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").touch()
    assert split_arguments(["~/mine.yaml"], {})[0] == (tmp_path / "mine.yaml",)


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("quikstart", "did you mean `quickstart`? shipped recipes: detection.coco, quickstart"),
        ("zzz", "shipped recipes: detection.coco, quickstart"),
        ("~1", "shipped recipes: detection.coco, quickstart"),
        ("x" * 5000, "shipped recipes: detection.coco, quickstart"),
    ],
)
def test_a_name_that_is_nothing_lists_what_is_shipped(word: str, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        split_arguments([word], SHIPPED)
    assert str(caught.value) == f"`{word}` is no file and no shipped recipe\n    {hint}"


def test_the_core_ships_the_quickstart() -> None:
    (source,), _ = split_arguments(["quickstart"])
    assert source.name == "quickstart.yaml"
    assert source.is_file()
