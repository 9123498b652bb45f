"""Models that threads make at the same time are whole, and leave the process as it was."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from regraft.bases.load import BaseLoader
from unit.bases.families import located


def test_threads_that_load_at_once_leave_weights_tied(tmp_path: Path) -> None:
    base, tie = located("gpt2", tmp_path), PreTrainedModel.tie_weights

    def made(_: int) -> bool:
        model: Any = BaseLoader(base)("AutoModelForCausalLM")
        return model.get_output_embeddings().weight is model.get_input_embeddings().weight

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(made, range(24)))
    assert PreTrainedModel.tie_weights is tie
