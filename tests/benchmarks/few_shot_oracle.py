"""The `setfit` package on rows that `few_shot.py` gives it: reads JSON from stdin, and writes accuracy and seconds."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from datasets import Dataset
from setfit import SetFitModel, Trainer, TrainingArguments


def main() -> None:
    """Train with the package's defaults, answer the rows that judge, and print the figures as the last line."""
    given: dict[str, Any] = json.load(sys.stdin)
    torch.set_num_threads(1)
    model = SetFitModel.from_pretrained(given["base"], local_files_only=True)
    arguments = TrainingArguments(seed=given["seed"], report_to="none", save_strategy="no", **given["arguments"])
    rows = {"text": [text for text, _ in given["train"]], "label": [label for _, label in given["train"]]}
    started, cpu = time.monotonic(), time.process_time()
    Trainer(model=model, args=arguments, train_dataset=Dataset.from_dict(rows)).train()
    answers = model.predict([text for text, _ in given["judges"]])
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    right = [str(answer) == label for answer, (_, label) in zip(answers, given["judges"], strict=True)]
    figures = {"accuracy": sum(right) / len(right), "rows": len(right), "seconds": seconds, "cpu_seconds": cpu}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
