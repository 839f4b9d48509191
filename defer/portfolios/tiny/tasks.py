"""Text tasks whose answers can be verified: arithmetic, order, strings, counting, dates, units, brackets.

Every task draws its difficulty first (length of operands or words), so that easy and hard queries of one task differ in a
way that their text shows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["TASKS", "draw", "is_correct"]

_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MONTHS = ("january", "march", "april", "may", "june", "july", "august", "october")
_UNITS = {"km": ("m", 1000), "m": ("cm", 100), "kg": ("g", 1000), "hours": ("minutes", 60), "days": ("hours", 24)}
_LETTERS = "abcdefghijklmnopqrstuvwxyz"

Rng = np.random.Generator
Task = Callable[[Rng], tuple[str, str]]


def _pick(rng: Rng, *options: str) -> str:
    return options[int(rng.integers(len(options)))]


def _word(rng: Rng, low: int, high: int, letters: str = _LETTERS) -> str:
    size = int(rng.integers(low, high + 1))
    return "".join(letters[i] for i in rng.integers(len(letters), size=size))


def _number(rng: Rng, digits: int) -> int:
    return int(rng.integers(10 ** (digits - 1) if digits > 1 else 0, 10**digits))


def _add(rng: Rng) -> tuple[str, str]:
    a, b = _number(rng, int(rng.integers(1, 4))), _number(rng, int(rng.integers(1, 3)))
    return _pick(rng, f"{a}+{b}=", f"add {a} and {b}", f"sum of {a} and {b}"), str(a + b)


def _subtract(rng: Rng) -> tuple[str, str]:
    a, b = sorted((_number(rng, int(rng.integers(1, 3))), _number(rng, int(rng.integers(1, 3)))), reverse=True)
    return _pick(rng, f"{a}-{b}=", f"{a} minus {b}", f"take {b} from {a}"), str(a - b)


def _larger(rng: Rng) -> tuple[str, str]:
    digits = int(rng.integers(1, 5))
    a, b = _number(rng, digits), _number(rng, digits)
    return _pick(rng, f"larger of {a} {b}", f"which is more {a} or {b}"), str(max(a, b))


def _sort(rng: Rng) -> tuple[str, str]:
    digits = rng.integers(10, size=int(rng.integers(3, 8)))
    return _pick(rng, "sort ", "put in order ") + " ".join(map(str, digits)), "".join(map(str, np.sort(digits)))


def _reverse(rng: Rng) -> tuple[str, str]:
    word = _word(rng, 3, 8)
    return _pick(rng, f"reverse {word}", f"{word} backwards"), word[::-1]


def _count(rng: Rng) -> tuple[str, str]:
    word = _word(rng, 4, 10, "abcd")
    letter = word[int(rng.integers(len(word)))]
    return _pick(rng, f"count {letter} in {word}", f"how many {letter} in {word}"), str(word.count(letter))


def _spell(rng: Rng) -> tuple[str, str]:
    word = _word(rng, 3, 8)
    if rng.random() < 0.5:
        return f"last letter of {word}", word[-1]
    return f"first letter of {word}", word[0]


def _brackets(rng: Rng) -> tuple[str, str]:
    half, text, depth = int(rng.integers(1, 6)), "", 0
    for left in range(2 * half, 0, -1):
        opens = depth == 0 or (depth < left and rng.random() < 0.5)
        text, depth = text + "([)]"[0 if opens else 2], depth + (1 if opens else -1)
    if rng.random() < 0.5:
        place = int(rng.integers(len(text)))
        text = text[:place] + (")" if text[place] == "(" else "(") + text[place + 1 :]
    return _pick(rng, f"balanced {text}", f"do these match {text}"), "yes" if _is_balanced(text) else "no"


def _is_balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += 1 if character == "(" else -1
        if depth < 0:
            return False
    return depth == 0


def _date(rng: Rng) -> tuple[str, str]:
    if rng.random() < 0.5:
        day, step = int(rng.integers(7)), int(rng.integers(1, 10))
        return f"{step} days after {_DAYS[day]}", _DAYS[(day + step) % 7]
    month = _pick(rng, *_MONTHS)
    start, step = int(rng.integers(1, 20)), int(rng.integers(1, 10))
    return f"{month} {start} plus {step} days", str(start + step)


def _unit(rng: Rng) -> tuple[str, str]:
    unit = _pick(rng, *_UNITS)
    target, factor = _UNITS[unit]
    amount = int(rng.integers(1, 10 if factor in (60, 24) else 100))
    return _pick(rng, f"{amount} {unit} in {target}", f"convert {amount} {unit} to {target}"), str(amount * factor)


TASKS: dict[str, Task] = {
    "addition": _add,
    "subtraction": _subtract,
    "comparison": _larger,
    "sorting": _sort,
    "reversal": _reverse,
    "counting": _count,
    "spelling": _spell,
    "brackets": _brackets,
    "dates": _date,
    "units": _unit,
}


def draw(task: str, n: int, rng: Rng) -> list[tuple[str, str]]:
    """Draw n (prompt, answer) pairs of a task; repeats are possible.

    Examples
    --------
    >>> draw("units", 1, np.random.default_rng(3))
    [('1 days in hours', '24')]
    """
    make = TASKS[task]
    return [make(rng) for _ in range(n)]


def is_correct(answer: str, target: str) -> bool:
    """Exact match, white space at the ends aside."""
    return answer.strip() == target
