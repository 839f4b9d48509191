"""The tiny transformer: it reads to the left only, and its answers end where they should."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from defer.portfolios.tiny.model import ALPHABET, CONTEXT, CharModel, answer, encode, encode_batch  # noqa: E402
from defer.portfolios.tiny.tasks import TASKS, draw  # noqa: E402


def decoded(tokens: list[int]) -> str:
    return "".join(ALPHABET[token] for token in tokens)


def test_a_prompt_is_its_characters_and_a_closing_mark() -> None:
    assert decoded(encode("add 3 and 4")) == "add 3 and 4>"


def test_a_batch_counts_the_answer_and_its_end_and_nothing_else() -> None:
    tokens, counted = encode_batch([("ab", "xyz"), ("a", "1")])
    assert decoded(tokens[0].tolist()) == "ab>xyz\0"
    assert decoded(tokens[1].tolist()) == "a>1\0\0\0\0"
    following = [decoded(row[1:][mask].tolist()) for row, mask in zip(tokens, counted, strict=True)]
    assert following == ["xyz\0", "1\0"]


@pytest.mark.parametrize("task", TASKS)
def test_every_query_fits_alphabet_and_context(task: str) -> None:
    for prompt, target in draw(task, 500, np.random.default_rng(1)):
        assert set(prompt + target) <= set(ALPHABET[1:]) - {">"}
        assert len(encode(prompt)) + len(target) <= CONTEXT
        assert len(target) < 12  # answers are cut there


def test_the_model_reads_to_the_left_only() -> None:
    torch.manual_seed(0)
    model = CharModel(16, 2, 2).eval()
    one, other = encode("reverse abc"), encode("reverse xyz")
    with torch.no_grad():
        first, second = (model(torch.tensor([tokens]))[0] for tokens in (one, other))
    same = len("reverse ")
    torch.testing.assert_close(first[:same], second[:same])
    assert not torch.allclose(first[same:], second[same:])


def test_the_number_of_parameters_is_that_of_the_layers() -> None:
    width, letters = 16, len(ALPHABET)
    attention, feed, norms = 4 * width * width + 4 * width, 8 * width * width + 5 * width, 4 * width
    outer = letters * width + CONTEXT * width + 2 * width + width * letters + letters
    assert CharModel(width, 3, 2).n_parameters == outer + 3 * (attention + feed + norms)


class Fixed(torch.nn.Module):
    """Says the same text whatever it is asked."""

    def __init__(self, text: str, asked: str) -> None:
        super().__init__()
        self.text, self.start = text, len(encode(asked))

    def forward(self, tokens):
        place = tokens.shape[1] - self.start
        logits = torch.zeros(1, tokens.shape[1], len(ALPHABET))
        logits[0, -1, ALPHABET.index(self.text[place]) if place < len(self.text) else 0] = 1.0
        return logits


@pytest.mark.parametrize("text", ["", "42", "elevenchars"])
def test_an_answer_ends_at_the_end_mark(text: str) -> None:
    assert answer(Fixed(text, "what"), "what") == text


def test_an_answer_without_end_is_cut() -> None:
    assert answer(Fixed("x" * 100, "what"), "what") == "x" * 12
    assert answer(Fixed("x" * 100, "what"), "what", most=3) == "xxx"
    long = "a" * (CONTEXT - 5)
    assert answer(Fixed("x" * 100, long), long) == "x" * 4
