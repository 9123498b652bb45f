"""A grid of linear heads on a frozen base: sentence-transformers' encode and scikit-learn's logistic regression.

python tests/benchmarks/peers/encode_logistic.py MODEL TRAIN.csv EVAL.csv --grid 8 --out answer.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from labelled import rows
from sentence_transformers import SentenceTransformer
from sklearn.linear_model import LogisticRegression


def main() -> None:
    """Encode once, fit each point of the grid, write each accuracy."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("train")
    parser.add_argument("eval")
    parser.add_argument("--grid", type=int, required=True)
    parser.add_argument("--max-length", type=int, default=64)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    encoder = SentenceTransformer(options.model, device="cpu")
    encoder.max_seq_length = options.max_length
    sides = [rows(options.train), rows(options.eval)]
    vectors = [encoder.encode([row["text"] for row in side], show_progress_bar=False) for side in sides]
    labels = [np.array([row["label"] for row in side]) for side in sides]
    scores = []
    for strength in np.logspace(-2, 3, options.grid):
        fitted = LogisticRegression(C=strength, max_iter=1000).fit(vectors[0], labels[0])
        scores.append({"C": float(strength), "accuracy": float(fitted.score(vectors[1], labels[1]))})
    options.out.write_text(json.dumps(scores))


if __name__ == "__main__":
    main()
