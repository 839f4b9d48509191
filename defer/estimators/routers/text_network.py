"""Parts of routers that read text by a transformer of their own: libraries, checkpoint folders, texts, batches of tokens.

A checkpoint is a local folder in the layout of Hugging Face; nothing is ever downloaded.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defer.estimators.embeddings import quiet_loading
from defer.estimators.queries import read_texts
from defer.exceptions import MissingExtraError, RouterInputError

__all__ = [
    "Features",
    "KeepsNetwork",
    "Tokens",
    "checkpoint_hash",
    "clean_texts",
    "freeze_layers",
    "load_checkpoint",
    "pooled_states",
    "text_libraries",
    "text_tokens",
    "trained_arrays",
    "use_arrays",
]

Rows = NDArray[np.intp]

_WEIGHT_FILES = ("*.safetensors", "*.bin", "*.json", "*.txt", "*.model")
_CHUNK = 2**22


def text_libraries() -> tuple[Any, Any]:
    """The modules torch and transformers.

    Raises
    ------
    MissingExtraError
        If one of them is not installed.
    """
    try:
        import torch
    except ImportError:
        raise MissingExtraError("torch", "torch") from None
    try:
        transformers = importlib.import_module("transformers")
    except ImportError:
        raise MissingExtraError("transformers", "text") from None
    return torch, transformers


def clean_texts(owner: str, X: Any) -> list[str]:
    """Queries as a list of texts that every tokenizer takes: what cannot be encoded as UTF-8 is replaced by "?".

    Raises
    ------
    RouterInputError
        As for `read_texts`.

    Examples
    --------
    >>> clean_texts("Router", ["plain", "half of a pair: \\ud800"])
    ['plain', 'half of a pair: ?']
    """
    return [text.encode("utf-8", "replace").decode("utf-8") for text in read_texts(X, owner=owner)]


def checkpoint_hash(folder: str) -> str:
    """SHA-256 of the weights, configuration and tokenizer in a checkpoint folder; other files and its place do not count."""
    total = hashlib.sha256()
    for path in sorted({path for pattern in _WEIGHT_FILES for path in Path(folder).glob(pattern)}):
        total.update(path.name.encode())
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                total.update(chunk)
    return total.hexdigest()


def load_checkpoint(owner: str, folder: str | None, kind: str) -> tuple[Any, Any]:
    """Model and tokenizer from a local folder, in float32 on the CPU.

    Parameters
    ----------
    owner : str
        For messages.
    folder : str or None
    kind : str
        Class of transformers that loads the model, such as "AutoModel".

    Raises
    ------
    MissingExtraError
        If torch or transformers is not installed.
    RouterInputError
        If there is no folder, or what it holds cannot be loaded.
    """
    _, transformers = text_libraries()
    if folder is None or not Path(folder).is_dir():
        raise RouterInputError(
            f"{owner}: there is no model folder at {folder!r}; give model= a local folder with config.json, weights and "
            "tokenizer, as save_pretrained writes it"
        )
    try:
        with quiet_loading():
            model = getattr(transformers, kind).from_pretrained(folder, local_files_only=True).float()
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (
        OSError,
        ValueError,
        KeyError,
        ImportError,
        RuntimeError,
    ) as error:  # whatever a damaged folder makes it raise
        reason = str(error).strip().split("\n")[0]
        raise RouterInputError(f"{owner}: the model in {folder!r} cannot be loaded as {kind}: {reason}") from error
    return model, tokenizer


def freeze_layers(owner: str, module: Any, freeze: int) -> int:
    """Keep the embeddings and the first layers of a transformer from being trained; returns how many layers it has.

    Parameters
    ----------
    owner : str
        For messages.
    module : torch module
        Its longest list of modules are its layers.  What it defines before the first layer that is trained is frozen.
    freeze : int
        Layers to freeze, from the first; 0 trains everything.

    Raises
    ------
    RouterInputError
        If there are fewer layers.
    """
    import torch

    lists = [part for part in module.modules() if isinstance(part, torch.nn.ModuleList)]
    layers: list[Any] = list(max(lists, key=len, default=()))
    if freeze > len(layers):
        raise RouterInputError(f"{owner}: freeze={freeze}, and the model has {len(layers)} layers")
    if freeze:
        free = {id(parameter) for layer in layers[freeze:] for parameter in layer.parameters()}
        last = max(
            (index for index, parameter in enumerate(module.parameters()) if id(parameter) in _within(layers[:freeze])),
            default=-1,
        )
        for index, parameter in enumerate(module.parameters()):
            parameter.requires_grad_(index > last or id(parameter) in free)
    return len(layers)


def pooled_states(state: Any, mask: Any, pooling: str) -> Any:
    """What stands for texts, shape (n, d): the mean of their tokens' states or, for "cls", the state of the first token.

    Parameters
    ----------
    state : tensor of shape (n, l, d)
    mask : tensor of shape (n, l)
        0 for tokens that fill up.
    pooling : {"mean", "cls"}
    """
    counted = mask[:, :, None].to(state.dtype)
    return state[:, 0] if pooling == "cls" else (state * counted).sum(dim=1) / counted.sum(dim=1)


def trained_arrays(module: Any) -> dict[str, NDArray[np.float32]]:
    """The parameters that training may have changed, by name, as arrays of their own."""
    return {
        name: parameter.detach().cpu().numpy().copy()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def use_arrays(module: Any, arrays: dict[str, NDArray[np.float32]]) -> None:
    """Give a module the parameters of `trained_arrays`."""
    import torch

    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for name, values in arrays.items():
            parameters[name].copy_(torch.from_numpy(np.asarray(values)))


@dataclass(frozen=True, eq=False)
class Tokens:
    """Token numbers of texts of different lengths.

    Attributes
    ----------
    ids : sequence of n int arrays, none empty
    pad : int
        Token that fills up a batch; it is masked.
    """

    ids: Sequence[NDArray[np.int64]]
    pad: int

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, rows: Rows) -> tuple[Any, Any]:
        """Tokens and mask of some rows as tensors of shape (rows, longest of them), filled up on the right."""
        import torch

        part = [self.ids[row] for row in rows]
        width = max(map(len, part))
        ids, mask = np.full((len(part), width), self.pad, dtype=np.int64), np.zeros((len(part), width), dtype=np.int64)
        for line, tokens in enumerate(part):
            ids[line, : len(tokens)], mask[line, : len(tokens)] = tokens, 1
        return torch.from_numpy(ids), torch.from_numpy(mask)

    def alike(self, size: int) -> Iterator[Rows]:
        """Batches of all rows, texts of similar length together."""
        order = np.argsort([len(tokens) for tokens in self.ids], kind="stable")
        yield from np.split(order, np.arange(size, len(order), size))


def text_tokens(tokenizer: Any, config: Any, texts: list[str], max_length: int) -> Tokens:
    """The first tokens of texts; a text of none, where the tokenizer marks no beginning and end, is one that fills up.

    Parameters
    ----------
    tokenizer : of transformers
    config : configuration of the model
        Texts are cut to what it and the tokenizer can take.
    texts : list of n str
    max_length : int
        Tokens of a text, at most.
    """
    pad = 0 if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
    places = getattr(config, "max_position_embeddings", None)
    # Some models give no bound as -1, and tokenizers as a number beyond all texts.
    most = min(value for value in (max_length, places, tokenizer.model_max_length) if value and value > 0)
    found = tokenizer(texts, truncation=True, max_length=int(most))["input_ids"]
    return Tokens([np.asarray(ids or [pad], dtype=np.int64) for ids in found], pad)


@dataclass(frozen=True, eq=False)
class Features:
    """What a frozen encoder made of texts: a table of shape (n, d), float32."""

    table: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.table)

    def batch(self, rows: Rows) -> tuple[Any]:
        """Some rows, as the one tensor that a head takes."""
        import torch

        return (torch.from_numpy(self.table[rows]),)

    def alike(self, size: int) -> Iterator[Rows]:
        """Batches of all rows."""
        yield from np.split(np.arange(len(self.table)), np.arange(size, len(self.table), size))


class KeepsNetwork:
    """An estimator with a network of its own, of which it keeps the parameters that were trained; a subclass writes `_build`.

    Attributes
    ----------
    weights_ : dict of str to array
        Parameters that were trained, float32.  The others are read from the model folder on first use.
    model_hash_ : str
        SHA-256 of the model folder at the time of the fit; "" where there is none.
    """

    # The network in use; it is built again from the folder and `weights_` where it is missing.
    _network: Any = None

    weights_: dict[str, NDArray[np.float32]]
    model_hash_: str
    device: str

    def __getstate__(self) -> dict[str, Any]:
        state: Any = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_network"}

    def _build(self) -> Any:
        """The network with the folder's weights (or, without a folder, any)."""
        raise NotImplementedError

    def _folder(self) -> str | None:
        """The model folder; None where the estimator makes its own network."""
        return getattr(self, "model", None)

    def _trained_network(self) -> Any:
        """The network with what was learned; built where the estimator was loaded from a file."""
        if self._network is None:
            folder = self._folder()
            if folder is not None and self.model_hash_ and checkpoint_hash(folder) != self.model_hash_:
                raise RouterInputError(
                    f"{type(self).__name__}: the model in {folder!r} is not the one that this estimator was fitted on (their SHA-256 "
                    "differ); set_params(model=...) to a folder that holds that one, or fit again"
                )
            network = self._build()
            use_arrays(network, self.weights_)
            self._network = network.to(self.device).eval()
        return self._network


def _within(layers: Any) -> set[int]:
    return {id(parameter) for layer in layers for parameter in layer.parameters()}
