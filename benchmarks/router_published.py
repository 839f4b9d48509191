"""What was published on the shared sets, to stand beside what is measured here."""

from __future__ import annotations

__all__ = ["PUBLISHED"]

_HEADER = ["published router", "training data", "CPT(50%)", "CPT(80%)", "APGR"]


def _routellm(rows: list[tuple[str, str]]) -> list[list[str]]:
    """Rows of BERT, causal LM, matrix factorisation and similarity-weighted ranking from 'a / b / c / d' of each measure."""
    found = [_HEADER]
    names = ("BERT classifier", "causal LM classifier", "matrix factorisation", "similarity-weighted ranking")
    for data, numbers in rows:
        for name, values in zip(
            names, zip(*(part.split(" / ") for part in numbers.split(" | ")), strict=True), strict=True
        ):
            found.append([name, data, *values])
    return found


_ARENA = "other: preferences of Chatbot Arena"
_JUDGE = "other: Chatbot Arena, and labels of a GPT-4 judge"
_GOLD = "other: Chatbot Arena, and 1,500 labels of MMLU's validation part"

_SOURCE = "Ong et al., RouteLLM, arXiv 2406.18665v4, tables 1 to 3: shares of strong calls in per cent, APGR as the mean over the curve"

PUBLISHED: dict[str, tuple[str, list[list[str]]]] = {
    "mmlu": (
        f"{_SOURCE}; on all 14,042 questions, of which 70% are here.",
        _routellm([
            (_ARENA, "49.43 / 48.88 / 45.00 / 55.82 | 77.80 / 77.93 / 76.86 / 80.25 | 0.502 / 0.499 / 0.524 / 0.473"),
            (_GOLD, "41.30 / 35.49 / 35.46 / 35.40 | 72.20 / 70.31 / 71.40 / 71.55 | 0.572 / 0.600 / 0.597 / 0.603"),
        ]),
    ),
    "gsm8k": (
        f"{_SOURCE}; on these questions less 12.",
        _routellm([
            (_ARENA, "58.78 / 56.09 / 53.59 / 54.43 | 83.84 / 83.56 / 85.24 / 82.11 | 0.438 / 0.461 / 0.4746 / 0.4753"),
            (_JUDGE, "44.76 / 33.64 / 38.82 / 41.21 | 79.09 / 63.26 / 72.62 / 72.20 | 0.531 / 0.622 / 0.565 / 0.568"),
        ]),
    ),
    "mt_bench": (
        f"{_SOURCE}; on these questions less 8.",
        _routellm([
            (_ARENA, "78.09 / 28.82 / 25.32 / 37.85 | 87.64 / 77.53 / 74.26 / 58.99 | 0.391 / 0.573 / 0.580 / 0.610"),
            (_JUDGE, "19.58 / 31.50 / 13.40 / 23.21 | 34.02 / 48.75 / 31.31 / 36.04 | 0.751 / 0.679 / 0.802 / 0.759"),
        ]),
    ),
    "routerbench_mini": (
        "ken-ab/routerbench-mini, ``test_summary.csv``, on exactly these rows; trained on other rows of the same study.",
        [
            ["published router", "training data", "accuracy", "CNY per 1,000", "share of strong calls"],
            ["task-aware rule", "–", "0.72125", "0.688", "0.699"],
            ["learned, combined", "same study, other rows", "0.7200", "0.783", "0.959"],
            ["learned, structured only", "same study, other rows", "0.7175", "0.627", "0.804"],
            ["learned, text only", "same study, other rows", "0.7200", "0.779", "0.951"],
            ["random at the learned rate", "–", "0.7252", "0.778", "0.959"],
        ],
    ),
}  # fmt: skip
