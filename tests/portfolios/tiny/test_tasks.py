"""The text tasks: every answer is checked by a solver that sees nothing but the prompt."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defer.datasets import load_tiny
from defer.portfolios.tiny.tasks import TASKS, draw, is_correct

DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
FACTORS = {("km", "m"): 1000, ("m", "cm"): 100, ("kg", "g"): 1000, ("hours", "minutes"): 60, ("days", "hours"): 24}


def balanced(text: str) -> str:
    while "()" in text:
        text = text.replace("()", "")
    return "no" if text else "yes"


# One solver per form of the question: pattern, and the answer from its groups.
FORMS: dict[str, list[tuple[str, Callable[..., object]]]] = {
    "addition": [(r"(\d+)\+(\d+)=|(?:add|sum of) (\d+) and (\d+)", lambda *found: sum(int(part) for part in found if part))],
    "subtraction": [
        (r"(\d+)-(\d+)=", lambda a, b: int(a) - int(b)),
        (r"(\d+) minus (\d+)", lambda a, b: int(a) - int(b)),
        (r"take (\d+) from (\d+)", lambda b, a: int(a) - int(b)),
    ],
    "comparison": [(r"(?:larger of|which is more) (\d+)(?: or)? (\d+)", lambda a, b: max(int(a), int(b)))],
    "sorting": [(r"(?:sort|put in order) ([\d ]+)", lambda digits: "".join(sorted(digits.replace(" ", ""))))],
    "reversal": [(r"reverse ([a-z]+)|([a-z]+) backwards", lambda one, two: "".join(reversed(one or two)))],
    "counting": [(r"(?:count|how many) ([a-d]) in ([a-d]+)", lambda letter, word: sum(c == letter for c in word))],
    "spelling": [(r"(first|last) letter of ([a-z]+)", lambda end, word: word[0 if end == "first" else -1])],
    "brackets": [(r"(?:balanced|do these match) ([()]+)", balanced)],
    "dates": [
        (r"(\d+) days after (\w+day)", lambda step, day: DAYS[(DAYS.index(day) + int(step)) % 7]),
        (r"[a-z]+ (\d+) plus (\d+) days", lambda start, step: int(start) + int(step)),
    ],
    "units": [(r"(?:convert )?(\d+) (\w+) (?:in|to) (\w+)", lambda n, one, other: int(n) * FACTORS[one, other])],
}  # fmt: skip


def solve(task: str, prompt: str) -> str:
    answers = [answer(*found.groups()) for form, answer in FORMS[task] if (found := re.fullmatch(form, prompt))]
    assert len(answers) == 1, f"{task}: {prompt!r} has {len(answers)} readings"
    return str(answers[0])


@pytest.mark.parametrize("task", TASKS)
def test_answers_are_right(task: str) -> None:
    pairs = draw(task, 400, np.random.default_rng(0))
    assert [target for _, target in pairs] == [solve(task, prompt) for prompt, _ in pairs]
    assert len({prompt for prompt, _ in pairs}) > 50


def test_every_target_of_the_embedded_log_is_right(tiny_columns: dict[str, list[str]]) -> None:
    rows = zip(tiny_columns["domain"], tiny_columns["prompt"], tiny_columns["target"], strict=True)
    wrong = [(task, prompt, target) for task, prompt, target in rows if solve(task, prompt) != target]
    assert wrong == []
    assert len(tiny_columns["target"]) == len(load_tiny())


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), task=st.sampled_from(list(TASKS)))
def test_the_same_seed_draws_the_same_queries(seed: int, task: str) -> None:
    first, second = (draw(task, 5, np.random.default_rng(seed)) for _ in range(2))
    assert first == second
    assert [solve(task, prompt) for prompt, _ in first] == [target for _, target in first]


def test_both_answers_to_brackets_are_common() -> None:
    answers = [target for _, target in draw("brackets", 1000, np.random.default_rng(0))]
    assert set(answers) == {"yes", "no"}
    assert 400 < answers.count("yes") < 600  # 1000 throws of a coin stay within 500 +- 100 but for 3e-10


@pytest.mark.parametrize(
    ("answer", "right"), [("12", True), (" 12\n", True), ("012", False), ("12.", False), ("", False), ("1 2", False)]
)
def test_grading_is_an_exact_match(answer: str, right: bool) -> None:
    assert is_correct(answer, "12") is right
