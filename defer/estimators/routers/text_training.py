"""Fine-tuning of a text network: AdamW with a linear schedule, clipped gradients, and the epoch of least held-out loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from defer.estimators.deferral.parameter_checks import seed_of
from defer.estimators.routers.text_network import Features, Tokens, text_libraries, trained_arrays, use_arrays
from defer.exceptions import RouterInputError

__all__ = ["Batches", "FineTuned", "FineTuning", "network_outputs"]

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

_WARM_UP = 0.1


class Batches(Protocol):
    """What a network is trained on."""

    def batch(self, rows: Rows) -> tuple[Any, ...]:
        """Some rows, as the tensors that a network takes."""


@dataclass(frozen=True, eq=False)
class FineTuned:
    """How a network was fine-tuned.

    Attributes
    ----------
    held : int array
        Rows by which the epoch was chosen; the training rows where none were held out.
    losses : list of float
        Mean loss on them after every epoch.
    best_epoch : int
        Whose weights the network has, counted from 1; 0 where it was not trained.
    """

    held: Rows
    losses: list[float]
    best_epoch: int


@dataclass(frozen=True)
class FineTuning:
    """Options of a fine-tuning.

    Raises
    ------
    RouterInputError
        If an option is out of its range.

    Examples
    --------
    >>> FineTuning("EncoderRouter", epochs=2).batch_size
    16
    """

    owner: str
    epochs: int = 3
    learning_rate: float = 1e-4
    batch_size: int = 16
    max_norm: float = 1.0
    weight_decay: float = 0.01
    validation_fraction: float = 0.1
    device: str = "cpu"
    head_learning_rate: float | None = None

    def __post_init__(self) -> None:
        rules: dict[str, tuple[type, Callable[[Any], bool], str]] = {
            "epochs": (Integral, lambda value: value >= 0, "an integer >= 0"),
            "learning_rate": (Real, lambda value: 0 < value < np.inf, "a number > 0"),
            "batch_size": (Integral, lambda value: value >= 1, "an integer >= 1"),
            "max_norm": (Real, lambda value: 0 < value < np.inf, "a number > 0"),
            "weight_decay": (Real, lambda value: 0 <= value < np.inf, "a number >= 0"),
            "validation_fraction": (Real, lambda value: 0 <= value < 1, "a number in [0, 1)"),
        }
        if self.head_learning_rate is not None:
            rules["head_learning_rate"] = rules["learning_rate"]
        for name, (kind, allowed, rule) in rules.items():
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, bool) or not allowed(value):
                raise RouterInputError(f"{self.owner}: {name} must be {rule}, got {value!r}")

    def split(self, rows: Rows, random_state: Any, query: Rows | None = None) -> tuple[Rows, Rows, int]:
        """Training rows, held-out rows (the same where none can be held out), and a seed for the training.

        `query`, of shape (n,), keeps the rows of one query together; of shape (n, k) a row has several, and is held out with any
        of them.
        """
        # Not the seed as it is: folds may have been shuffled by the same number.
        rng = np.random.default_rng(int(np.random.RandomState(seed_of(random_state)).randint(2**31 - 1)))
        query = np.arange(rows.max() + 1) if query is None else query
        units = rng.permutation(np.unique(query[rows]))
        is_held = (
            np.isin(query[rows], units[: int(self.validation_fraction * len(units))]).reshape(len(rows), -1).any(axis=1)
        )
        seed = int(rng.integers(2**31))
        return (rows, rows, seed) if is_held.all() or not is_held.any() else (rows[~is_held], rows[is_held], seed)

    def run(
        self, module: Any, table: Batches, loss: Callable[[Any, Rows], Any], weight: Floats, rows: Rows,
        random_state: Any, query: Rows | None = None,
    ) -> FineTuned:  # fmt: skip
        """Train a network, and leave it in evaluation mode with the weights of its best epoch.

        Parameters
        ----------
        module : torch.nn.Module
            Takes a batch of `table`.
        table : Tokens, Features or others that make batches
        loss : callable (outputs, rows) -> tensor
            Loss of every row.
        weight : array of shape (n,)
        rows : int array
            Rows to learn from.
        query : int array of shape (n,) or (n, k), optional
            Rows of one query are held out together.
        random_state : int, Generator, RandomState instance or None
            The global state of torch is left as it was.
        """
        torch, _ = text_libraries()
        train, valid, seed = self.split(rows, random_state, query)
        module.to(self.device)
        losses: list[float] = []
        best, best_epoch = trained_arrays(module), 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            rng = np.random.default_rng(seed)
            learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
            optimizer = torch.optim.AdamW(self._groups(module), lr=self.learning_rate, weight_decay=self.weight_decay)
            batches = -(-len(train) // self.batch_size)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _slope(self.epochs * batches))
            for epoch in range(1, self.epochs + 1):
                module.train()
                # Of nearly equal size: a rest of one row would weigh as much as a batch.
                for part in np.array_split(rng.permutation(train), batches):
                    optimizer.zero_grad()
                    self._loss(torch, module, table, loss, weight, part).backward()
                    torch.nn.utils.clip_grad_norm_(learned, self.max_norm)
                    optimizer.step()
                    schedule.step()
                module.eval()
                losses.append(self._mean_loss(torch, module, table, loss, weight, valid))
                if losses[-1] <= min(losses):
                    best, best_epoch = trained_arrays(module), epoch
        use_arrays(module, best)
        module.eval()
        return FineTuned(valid, losses, best_epoch)

    def _groups(self, module: Any) -> list[dict[str, Any]]:
        """Parameters by their learning rate: a head is made afresh, and has further to go."""
        learned = [named for named in module.named_parameters() if named[1].requires_grad]
        body = {"params": [parameter for name, parameter in learned if not name.startswith("head.")]}
        head = {"params": [parameter for name, parameter in learned if name.startswith("head.")]}
        rate = self.head_learning_rate
        return [body, head if rate is None else {**head, "lr": rate}]

    def _loss(self, torch: Any, module: Any, table: Any, loss: Any, weight: Floats, rows: Rows) -> Any:
        mass = torch.as_tensor(weight[rows], dtype=torch.float32, device=self.device)
        outputs = module(*(part.to(self.device) for part in table.batch(rows)))
        return (mass * loss(outputs, rows)).sum() / mass.sum()

    def _mean_loss(self, torch: Any, module: Any, table: Any, loss: Any, weight: Floats, rows: Rows) -> float:
        total = 0.0
        with torch.no_grad():
            for part in np.array_split(rows, -(-len(rows) // self.batch_size)):
                total += float(self._loss(torch, module, table, loss, weight, part)) * float(weight[part].sum())
        return total / float(weight[rows].sum())


def network_outputs(module: Any, table: Tokens | Features, *, batch_size: int, device: str) -> Floats:
    """Outputs of a network in evaluation mode, a row per text.

    Parameters
    ----------
    module : torch.nn.Module
    table : Tokens or Features
    batch_size : int
        Texts of similar length are taken together.
    device : str
    """
    torch, _ = text_libraries()
    parts: list[Any] = []
    order: list[Rows] = []
    module.eval()
    with torch.no_grad():
        for rows in table.alike(batch_size):
            parts.append(module(*(part.to(device) for part in table.batch(rows))).cpu().numpy())
            order.append(rows)
    values = np.concatenate(parts).astype(np.float64)
    back = np.empty_like(values)
    back[np.concatenate(order)] = values
    return np.asarray(back)


def _slope(steps: int) -> Callable[[int], float]:
    """Share of the learning rate after so many steps: up over the first tenth, then down to nearly zero."""
    top = max(1, int(_WARM_UP * steps))
    return lambda step: (step + 1) / top if step < top else max(0.02, (steps - step) / max(1, steps - top))
