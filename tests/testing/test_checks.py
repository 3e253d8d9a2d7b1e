"""How checks are run, whatever they check."""

from __future__ import annotations

import pytest

from kdcore.testing.checks import Check, PromiseError, run_checks


def small(subject: list[str]) -> None:
    subject.append("small")
    if "large" in subject:
        raise PromiseError("it is large: make it smaller")


def quick(subject: list[str]) -> None:
    subject.append("quick")
    if "slow" in subject:
        raise RuntimeError("no time left.\nA second line")
    if "silent" in subject:
        raise RuntimeError


CHECKS = (
    Check("small", "it is small", small, "cut it"),
    Check("quick", "it is quick", quick, "hurry"),
)


def run(subject: list[str], **skip: str) -> None:
    run_checks(CHECKS, subject, title="Thing", caller="check_thing", skip=skip)


def test_all_run_in_their_order():
    subject: list[str] = []
    run(subject)
    assert subject == ["small", "quick"]


def test_the_first_broken_promise_is_said_and_how_to_leave_it_out():
    subject = ["large"]
    with pytest.raises(AssertionError) as caught:
        run(subject)
    assert str(caught.value) == (
        "Thing [small]: it is large: make it smaller\n"
        "(If that is meant: check_thing(..., skip={'small': 'the reason'}))"
    )
    assert subject == ["large", "small"]


def test_what_raises_is_said_with_the_promise_and_what_to_write():
    with pytest.raises(AssertionError) as caught:
        run(["slow"])
    assert str(caught.value) == (
        "Thing [quick]: it raises RuntimeError: no time left; promised is that it is quick: hurry\n"
        "(If that is meant: check_thing(..., skip={'quick': 'the reason'}))"
    )
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_an_error_without_words_is_said_by_its_name():
    with pytest.raises(AssertionError, match=r"it raises RuntimeError; promised is that it is quick: hurry"):
        run(["silent"])


def test_what_is_skipped_does_not_run():
    subject = ["large"]
    run(subject, small="it is a house")
    assert subject == ["large", "quick"]


def test_only_what_is_named_runs():
    subject = ["large"]
    run_checks(CHECKS, subject, title="Thing", caller="check_thing", skip=None, only=["quick"])
    assert subject == ["large", "quick"]


def test_what_is_named_and_skipped_does_not_run():
    subject: list[str] = []
    run_checks(CHECKS, subject, title="Thing", caller="check_thing", skip={"quick": "it is late"}, only=["quick"])
    assert subject == []


def test_only_a_name_that_is_none_is_an_error():
    said = r"^only=\['small', 'quik'\]: there is no check `quik`; did you mean `quick`\?$"
    with pytest.raises(ValueError, match=said):
        run_checks(CHECKS, [], title="Thing", caller="check_thing", skip=None, only=["small", "quik"])


def test_a_name_that_is_none_is_an_error():
    with pytest.raises(ValueError, match=r"^skip=\{'smal': ...\}: there is no such check; did you mean `small`\?$"):
        run([], smal="it is a house")


@pytest.mark.parametrize("reason", ["", "  "])
def test_a_reason_is_asked_for(reason: str):
    with pytest.raises(ValueError, match=rf"^skip=\{{'small': '{reason}'\}}: say why the check does not apply$"):
        run([], small=reason)
