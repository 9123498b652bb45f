"""A search over learning rates of a head on a frozen base, as Ray Tune's and transformers' own documents write it.

python tests/benchmarks/peers/tune_trainer.py MODEL TRAIN.csv EVAL.csv --rates 1e-3 3e-3 --epochs 3 --out answer.json
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import ray
from labelled import rows
from ray import tune


def trial(config: dict[str, Any]) -> None:
    """One trial: a Trainer over a classifier whose base stands still."""
    import numpy as np
    from datasets import Dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    tokenizer = AutoTokenizer.from_pretrained(config["model"])

    def encode(batch: dict[str, Any]) -> Any:
        return tokenizer(batch["text"], truncation=True, max_length=config["max_length"])

    sides = [Dataset.from_list(rows(config[side])).map(encode, batched=True) for side in ("train", "eval")]
    model = AutoModelForSequenceClassification.from_pretrained(config["model"], num_labels=2)
    for parameter in model.base_model.parameters():
        parameter.requires_grad = False
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                learning_rate=config["lr"],
                num_train_epochs=config["epochs"],
                per_device_train_batch_size=32,
                per_device_eval_batch_size=32,
                eval_strategy="epoch",
                save_strategy="epoch",
                report_to="none",
                use_cpu=True,
                disable_tqdm=True,
                seed=0,
            ),
            train_dataset=sides[0],
            eval_dataset=sides[1],
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=lambda pair: {"accuracy": float((np.argmax(pair[0], axis=-1) == pair[1]).mean())},
        )
        trainer.train()
        best = max(line["eval_accuracy"] for line in trainer.state.log_history if "eval_accuracy" in line)
    tune.report({"accuracy": best})


def main() -> None:
    """Run the grid and write each trial's accuracy."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("train")
    parser.add_argument("eval")
    parser.add_argument("--rates", type=float, nargs="+", required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--max-length", type=int, default=64)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    space = {
        "model": options.model,
        "train": options.train,
        "eval": options.eval,
        "epochs": options.epochs,
        "max_length": options.max_length,
        "lr": tune.grid_search(options.rates),
    }
    with tempfile.TemporaryDirectory() as folder:
        tuner = tune.Tuner(
            tune.with_resources(trial, {"cpu": 1}),
            param_space=space,
            tune_config=tune.TuneConfig(metric="accuracy", mode="max"),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        )
        found = tuner.fit()
        assert not found.errors, found.errors
        scores = [{"lr": result.config["lr"], "accuracy": result.metrics["accuracy"]} for result in found]
    options.out.write_text(json.dumps(scores))
    ray.shutdown()


if __name__ == "__main__":
    main()
