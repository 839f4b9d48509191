"""Prompts that end where a language model writes a score from 1 to 5, and the network that reads the score's chances off it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defer.estimators.routers.text_network import Tokens, text_libraries
from defer.exceptions import RouterInputError

__all__ = ["ByteTokenizer", "PromptShape", "score_labels", "score_network"]

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

# Names of arms are read up to here, so that the prompt's end stays short.
_MOST_NAME = 64


class ByteTokenizer:
    """A text is its bytes in UTF-8; the call is that of a tokenizer of transformers, as far as it is needed here.

    Examples
    --------
    >>> ByteTokenizer()(["a1"])["input_ids"]
    [[97, 49]]
    """

    size = 257
    pad_token_id = 256
    eos_token_id = None

    def __call__(
        self, texts: Sequence[str], *, add_special_tokens: bool = True, truncation: bool = False, max_length: int = 0
    ) -> dict[str, list[list[int]]]:
        most = max_length if truncation else None
        return {"input_ids": [list(text.encode("utf-8")[:most]) for text in texts]}


@dataclass(frozen=True, eq=False)
class PromptShape:
    """A template with "{query}" and "{arm}", and how long a prompt may be.

    Parameters
    ----------
    template : str
        A query that is too long loses its end, never what stands around it.
    tokenizer : tokenizer of transformers, or ByteTokenizer
    max_length : int
        Tokens of a prompt.

    Raises
    ------
    RouterInputError
        If the template has not one "{query}".

    Examples
    --------
    >>> shape = PromptShape("Q: {query} {arm}:", ByteTokenizer(), 12)
    >>> [bytes(ids.tolist()).decode() for ids in shape.tokens(["1 + 1 = ?"], ["a", "b"]).ids]
    ['Q: 1 + 1  a:', 'Q: 1 + 1  b:']
    """

    template: str
    tokenizer: Any
    max_length: int

    def __post_init__(self) -> None:
        if not isinstance(self.template, str) or self.template.count("{query}") != 1:
            raise RouterInputError(f"CausalLMRouter: template must hold {{query}} once, got {self.template!r}")

    def tokens(self, texts: list[str], arms: Sequence[Any]) -> Tokens:
        """Prompts of every query for every arm, those of one query side by side."""
        head, _, tail = self.template.partition("{query}")
        names = [str(arm).encode("utf-8", "replace").decode("utf-8")[:_MOST_NAME] for arm in arms]
        before = [self._encoded([head.replace("{arm}", name)], special=True)[0] for name in names]
        after = self._encoded([tail.replace("{arm}", name) for name in names])
        around = max(len(start) + len(end) for start, end in zip(before, after, strict=True))
        if around >= self.max_length:
            raise RouterInputError(
                f"CausalLMRouter: max_length={self.max_length} leaves no room for a query: the template takes {around} tokens"
            )
        queries = self._encoded(texts, most=self.max_length - around)
        pad = self.tokenizer.pad_token_id
        pad = 0 if pad is None else int(pad)
        prompts = [
            np.asarray([*start, *query, *end] or [pad], dtype=np.int64)
            for query in queries
            for start, end in zip(before, after, strict=True)
        ]
        return Tokens(prompts, pad)

    def _encoded(self, texts: list[str], *, special: bool = False, most: int | None = None) -> list[list[int]]:
        cut: dict[str, Any] = {} if most is None else {"truncation": True, "max_length": most}
        found = self.tokenizer(texts, add_special_tokens=special, **cut)["input_ids"]
        end = self.tokenizer.eos_token_id
        # Some tokenizers close every text; a prompt goes on.
        return [list(ids[:-1] if special and len(ids) > 1 and ids[-1] == end else ids) for ids in found]


def score_labels(quality: Floats) -> NDArray[np.intp]:
    """Scores 1 to 5 as numbers 0 to 4: the range of all observed qualities in steps of a quarter, halves up; -1 = not observed.

    The best observed quality is 5 and the worst 1; where all are equal every one is 5.  This rule is ours.

    Parameters
    ----------
    quality : array of shape (n, m)

    Examples
    --------
    >>> score_labels(np.array([[0.0, 0.3], [0.625, 1.0], [np.nan, 0.5]])).tolist()
    [[0, 1], [3, 4], [-1, 2]]
    """
    seen = np.isfinite(quality)
    low, high = quality[seen].min(), quality[seen].max()
    share = (quality - low) / (high - low) if high > low else np.ones_like(quality)
    return np.where(seen, np.floor(4.0 * np.where(seen, share, 0.0) + 0.5), -1).astype(np.intp)


def score_network(base: Any, tokenizer: Any, score_tokens: Sequence[str]) -> Any:
    """A language model that gives the logits of the score tokens after each prompt, shape (n, 5).

    Parameters
    ----------
    base : causal language model of transformers
    tokenizer : its tokenizer
    score_tokens : five texts
        The last token of each stands for the score.

    Raises
    ------
    RouterInputError
        If they do not end in different tokens.
    """
    torch, _ = text_libraries()
    scores = [ids[-1] if ids else -1 for ids in tokenizer(list(score_tokens), add_special_tokens=False)["input_ids"]]
    if len(set(scores)) < 5 or -1 in scores:
        raise RouterInputError(
            f"CausalLMRouter: score_tokens must be five texts that end in different tokens, got {tuple(score_tokens)!r}, which "
            f"end in the tokens {scores}"
        )

    class Scorer(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.base = base
            self.tokenizer = tokenizer

        def forward(self, ids: Any, mask: Any) -> Any:
            state = self.base.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            last = state[torch.arange(len(ids), device=ids.device), mask.sum(dim=1) - 1]
            return self.base.get_output_embeddings()(last)[:, scores]

    return Scorer()
