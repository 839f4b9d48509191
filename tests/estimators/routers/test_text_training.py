"""What routers that read text share: fine-tuning of a network, batches, texts, and packages that may be missing."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from defer.estimators.routers.text_network import Features, Tokens, clean_texts, freeze_layers, text_libraries
from defer.estimators.routers.text_training import FineTuning, network_outputs
from defer.exceptions import MissingExtraError, RouterInputError

torch = pytest.importorskip("torch")


def test_batches_fill_up_on_the_right_and_outputs_come_back_in_order() -> None:
    tokens = Tokens([np.array([5, 6, 7]), np.array([8]), np.array([3, 4])], pad=0)
    ids, mask = tokens.batch(np.array([1, 0]))
    assert ids.tolist() == [[8, 0, 0], [5, 6, 7]]
    assert mask.tolist() == [[1, 0, 0], [1, 1, 1]]

    class Sum(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, ids: Any, mask: Any) -> Any:
            return (ids * mask).sum(dim=1, keepdim=True)

    for size in (1, 2, 3):
        assert network_outputs(Sum(), tokens, batch_size=size, device="cpu").ravel().tolist() == [18.0, 8.0, 7.0]


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5])
def test_rows_of_a_query_are_held_out_together(fraction: float) -> None:
    rows, query = np.arange(3, 60), np.repeat(np.arange(20), 3)
    train, valid, seed = FineTuning("Router", validation_fraction=fraction).split(rows, 3, query)
    if fraction == 0.0:
        assert train.tolist() == valid.tolist() == rows.tolist()
        return
    assert sorted([*train, *valid]) == rows.tolist()
    assert not set(query[train]) & set(query[valid])
    assert len(set(query[valid])) == int(fraction * 19)
    again = FineTuning("Router", validation_fraction=fraction).split(rows, 3, query)
    assert (again[1].tolist(), again[2]) == (valid.tolist(), seed)


def test_a_row_of_several_queries_is_held_out_with_any_of_them() -> None:
    rows, query = np.arange(30), np.column_stack([np.arange(30) % 7, np.arange(30) % 11 + 7])
    train, valid, _ = FineTuning("Router", validation_fraction=0.2).split(rows, 0, query)
    assert sorted([*train, *valid]) == rows.tolist()
    held = set(query.ravel()) - set(query[train].ravel())
    assert len(valid)
    assert all(held & set(query[row]) for row in valid)
    # Where nothing is left to train on, all rows are trained on, and choose the epoch.
    train, valid, _ = FineTuning("Router", validation_fraction=0.9).split(rows, 0, query)
    assert train.tolist() == valid.tolist() == rows.tolist()


def test_the_best_epoch_is_kept_weights_count_and_torch_keeps_its_state() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 2)).astype(np.float32)
    label = (X[:, 0] > 0).astype(np.int64)
    weight = np.ones(200)
    label[:80], weight[:80] = 1 - label[:80], 0.0  # wrong labels of no weight

    def loss(outputs: Any, rows: Any) -> Any:
        return torch.nn.functional.cross_entropy(outputs, torch.as_tensor(label[rows]), reduction="none")

    with torch.random.fork_rng():
        torch.manual_seed(0)
        module, table = torch.nn.Linear(2, 2), Features(X)
    before = torch.random.get_rng_state()
    training = FineTuning("Router", epochs=15, learning_rate=0.05)
    found = training.run(module, table, loss, weight, np.flatnonzero(weight), 0)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert len(found.losses) == 15
    assert found.losses[found.best_epoch - 1] == min(found.losses)
    outputs = network_outputs(module, table, batch_size=64, device="cpu")
    assert np.mean(outputs[80:].argmax(axis=1) == label[80:]) > 0.95
    held = torch.nn.functional.cross_entropy(torch.as_tensor(outputs[found.held]), torch.as_tensor(label[found.held]))
    assert float(held) == pytest.approx(min(found.losses), abs=1e-6)
    assert FineTuning("Router", epochs=0).run(module, table, loss, weight, np.arange(80, 200), 0).best_epoch == 0


def test_what_comes_before_the_first_trained_layer_is_frozen() -> None:
    class Small(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(3, 2)
            self.layers = torch.nn.ModuleList([torch.nn.Linear(2, 2) for _ in range(3)])
            self.norm = torch.nn.LayerNorm(2)

    for freeze, frozen in [(0, []), (2, ["embedding", "layers.0", "layers.1"]), (3, ["embedding", "layers"])]:
        module = Small()
        assert freeze_layers("Router", module, freeze) == 3
        for name, parameter in module.named_parameters():
            assert parameter.requires_grad != name.startswith(tuple(frozen) or "none")
    with pytest.raises(RouterInputError, match="Router: freeze=4, and the model has 3 layers"):
        freeze_layers("Router", Small(), 4)


def test_columns_of_frames_are_texts_too() -> None:
    import pandas as pd
    import polars as pl

    for column in (["a", "b"], ("a", "b"), np.array(["a", "b"]), pd.Series(["a", "b"]), pl.Series(["a", "b"])):
        assert clean_texts("Router", column) == ["a", "b"]
    with pytest.raises(
        RouterInputError, match=r"Router: X must be a list of texts, got a frame .* such as frame\['a'\]"
    ):
        clean_texts("Router", pd.DataFrame({"a": ["x"]}))


@pytest.mark.parametrize(("package", "extra"), [("torch", "torch"), ("transformers", "text")])
def test_a_missing_package_names_its_extra(package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"package '{package}'.*defer-learn\[{extra}\]"):
        text_libraries()
