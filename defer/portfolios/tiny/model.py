"""A small decoder-only transformer over characters, and greedy decoding; needs torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["ALPHABET", "CONTEXT", "CharModel", "answer", "encode", "encode_batch"]

# Index 0 pads and ends; "=" closes the prompt.
ALPHABET = "\0abcdefghijklmnopqrstuvwxyz0123456789 +-()=>?"
_INDEX = {character: index for index, character in enumerate(ALPHABET)}
CONTEXT = 48
_END_OF_PROMPT = ">"


class CharModel(nn.Module):  # type: ignore[misc]
    """Decoder-only transformer; logits of shape (batch, length, alphabet).

    Parameters
    ----------
    width : int
    layers : int
    heads : int
    """

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.token = nn.Embedding(len(ALPHABET), width)
        self.place = nn.Embedding(CONTEXT, width)
        block = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, len(ALPHABET))

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        hidden = self.token(tokens) + self.place.weight[:length]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        hidden = self.blocks(hidden, mask=mask, is_causal=True)
        return self.head(self.norm(hidden))

    @property
    def n_parameters(self) -> int:
        """Number of trained numbers."""
        return sum(parameter.numel() for parameter in self.parameters())


def encode(prompt: str) -> list[int]:
    """Tokens of a prompt with its closing mark."""
    return [_INDEX[character] for character in prompt + _END_OF_PROMPT]


def encode_batch(pairs: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor]:
    """Tokens (n, length) and a mask of the positions whose next token belongs to the answer or ends it."""
    rows = [(encode(prompt), [_INDEX[character] for character in target] + [0]) for prompt, target in pairs]
    length = max(len(prompt) + len(target) for prompt, target in rows)
    tokens, counted = np.zeros((len(rows), length), dtype=np.int64), np.zeros((len(rows), length - 1), dtype=bool)
    for row, (prompt, target) in enumerate(rows):
        end = len(prompt) + len(target)
        tokens[row, :end] = prompt + target
        counted[row, len(prompt) - 1 : end - 1] = True
    return torch.from_numpy(tokens), torch.from_numpy(counted)


@torch.inference_mode()  # type: ignore[untyped-decorator]
def answer(model: CharModel, prompt: str, *, most: int = 12) -> str:
    """Greedy answer to one prompt."""
    tokens = encode(prompt)
    start = len(tokens)
    while len(tokens) < min(start + most, CONTEXT):
        token = int(model(torch.tensor([tokens]))[0, -1].argmax())
        if token == 0:
            break
        tokens.append(token)
    return "".join(ALPHABET[token] for token in tokens[start:])
