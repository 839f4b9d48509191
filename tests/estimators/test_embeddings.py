"""Loading a sentence-embedding model: nothing on standard error, and progress bars are left as they were."""

from __future__ import annotations

import importlib.util
import itertools

import pytest

from defer.estimators.embeddings import SentenceEmbedder, local_model

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is None or local_model() is None,
    reason="no sentence-embedding model is installed",
)


@pytest.mark.parametrize(("shown", "hub_shown"), list(itertools.product([True, False], repeat=2)))
def test_loading_is_silent_and_leaves_progress_bars_as_they_were(
    shown: bool, hub_shown: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub = importlib.import_module("huggingface_hub.utils")
    bars = importlib.import_module("transformers.utils.logging")
    try:
        (bars.enable_progress_bar if shown else bars.disable_progress_bar)()
        (hub.enable_progress_bars if hub_shown else hub.disable_progress_bars)()
        capfd.readouterr()
        SentenceEmbedder().fit(["a"])
        assert capfd.readouterr() == ("", "")
        assert (bars.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()) == (shown, hub_shown)
    finally:
        bars.enable_progress_bar()
