from __future__ import annotations

import pytest

from kdcore.errors import (
    KdcoreError,
    PluginError,
    Problem,
    ProblemsError,
    RecipeError,
    RunError,
    did_you_mean,
    not_installed,
)


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem("it is broken"), "it is broken"),
        (Problem("it is broken", "mend it"), "it is broken\n    mend it"),
        (Problem("not a number", path="losses.kd.weight"), "losses.kd.weight: not a number"),
        (Problem("not a number", path="seed", file="a.yaml", line=3), "a.yaml:3: seed: not a number"),
        (Problem("cannot be read", file="a.yaml"), "a.yaml: cannot be read"),
        (Problem("slow", file="a.yaml", line=2, level="warning"), "warning: a.yaml:2: slow"),
    ],
)
def test_a_problem_reads_place_path_message_hint(problem: Problem, text: str) -> None:
    assert str(problem) == text


def test_placing_a_problem_keeps_everything_else() -> None:
    problem = Problem("bad", "mend it", "a.b", level="warning")

    assert problem.at("r.yaml", 7) == Problem("bad", "mend it", "a.b", "r.yaml", 7, "warning")
    assert problem.line == 0


def test_an_error_prints_all_its_problems_in_order() -> None:
    error = RecipeError([Problem("first", "mend it"), Problem("second")])

    assert str(error) == "first\n    mend it\nsecond"
    assert [problem.message for problem in error.problems] == ["first", "second"]


def test_a_single_message_is_one_problem() -> None:
    assert PluginError("no such file").problems == (Problem("no such file"),)


@pytest.mark.parametrize(("error", "code"), [(RunError, 1), (RecipeError, 2), (PluginError, 3)])
def test_exit_codes(error: type[KdcoreError], code: int) -> None:
    assert error("x").exit_code == code
    assert issubclass(error, KdcoreError)


def test_run_errors_are_not_lists_of_problems() -> None:
    assert not issubclass(RunError, ProblemsError)


@pytest.mark.parametrize(
    ("word", "choices", "text"),
    [
        ("temprature", ["weight", "temperature"], "did you mean `temperature`?"),
        ("zzz", ["kl", "mse"], "known: kl, mse"),
        ("zzz", ["mse", "kl", "mse"], "known: kl, mse"),
        ("kl", [], ""),
    ],
)
def test_did_you_mean(word: str, choices: list[str], text: str) -> None:
    assert did_you_mean(word, choices) == text


def test_packages_that_are_missing_are_named_as_an_index_knows_them() -> None:
    found = not_installed({"json": "stdlib", "no_such_module": "no-such-package"})
    assert found == [Problem("no-such-package is not installed", "pip install no-such-package")]
