"""Model cards: the content that readers need, in a form that the hub's own library reads."""

from __future__ import annotations

from typing import Any

import pytest
from huggingface_hub import ModelCard

from regraft.store.card import hub_id, model_card

META: dict[str, Any] = {
    "name": "support-tickets",
    "task": {"type": "text-classification", "max_length": 128},
    "method": {"type": "lora", "rank": 8},
    "labels": ["billing", "bug | crash", "two\nlines\n# heading"],
    "base": {"reference": "acme/tiny-bert@abc123", "hash": "f" * 64, "processor_hash": "e" * 64},
    "metrics": {"loss": 0.31, "accuracy": 0.9375, "f1": 0.91, "broken": float("nan")},
    "baselines": {"majority": {"accuracy": 0.25}, "nearest_centroid": {"accuracy": 0.875, "f1": 0.86}},
    "gain": {"mean": 0.0625, "low": 0.02, "high": 0.1},
    "score": {"name": "accuracy", "mode": "max"},
    "seed": 7,
    "lineage": {
        "run": "support-tickets-0123456789",
        "checkpoint": "12-abc",
        "data": {"fingerprint": "d" * 16, "rows": {"train": 800, "eval": 200}},
        "parent": None,
    },
    "delta_sha256": "c" * 64,
    "delta_bytes": 123456,
    "seconds": 12.5,
    "created": "2026-01-02T03:04:05Z",
    "versions": {"regraft": "0.1.0"},
}
SPEC: dict[str, Any] = {
    "data": {"train": "/home/someone/private/tickets-train.csv", "eval": "/home/someone/private/tickets-eval.csv"},
    "losses": [{"type": "coral", "weight": 0.5}],
    "training": {"epochs": 4, "lr": 3e-4},
}


def read(text: str) -> Any:
    """Return the front matter as the hub's library reads it; raises if the hub would reject it."""
    return ModelCard(text, ignore_metadata_errors=False).data


def test_the_hub_reads_the_front_matter() -> None:
    data = read(model_card(META, SPEC))
    assert data.library_name == "regraft"
    assert data.pipeline_tag == "text-classification"
    assert data.base_model == "acme/tiny-bert"
    assert data.tags == ["regraft", "lora"]
    assert data.model_name == "support-tickets"
    results = {result.metric_type: result for result in data.eval_results}
    assert list(results) == ["accuracy", "f1", "loss"], "the deciding metric first; what is not a number left out"
    assert results["accuracy"].metric_value == 0.9375
    assert results["accuracy"].task_type == "text-classification"
    assert results["accuracy"].dataset_name == "tickets-eval.csv"
    assert results["accuracy"].dataset_type == "csv"


def test_people_read_metrics_beside_baselines_data_and_lineage() -> None:
    text = model_card(META, SPEC)
    assert "| metric | this model | majority | nearest_centroid |" in text
    assert "| accuracy | **0.9375** | 0.25 | 0.875 |" in text
    for expected in (
        "800",
        "200",
        "d" * 16,
        "f" * 64,
        "c" * 64,
        "support-tickets-0123456789",
        "coral (weight 0.5)",
        "+0.020 to +0.100",
    ):
        assert expected in text
    assert 'regraft.load("support-tickets")' in text


def test_a_version_is_named_where_it_is_known() -> None:
    assert 'regraft.load("support-tickets@v3")' in model_card({**META, "version": "v3"}, SPEC)


def test_private_folders_stay_private() -> None:
    assert "/home/someone" not in model_card(META, SPEC)


def test_a_label_cannot_end_the_text_it_stands_in() -> None:
    text = model_card({**META, "labels": ["a\n# mine", "`b`"]}, SPEC)
    assert "\n# mine" not in text


@pytest.mark.parametrize(
    "meta, absent",
    [
        ({"metrics": {}}, "model-index"),
        ({"base": {"reference": "package:gt/model", "hash": "f"}}, "base_model"),
        ({"task": {"type": "my-own-task"}}, "pipeline_tag"),
    ],
)
def test_what_the_hub_would_refuse_is_left_out(meta: dict[str, Any], absent: str) -> None:
    text = model_card({**META, **meta}, SPEC)
    read(text)
    assert f"{absent}:" not in text.split("---")[1]


def test_data_split_by_share_and_data_from_the_hub() -> None:
    data = read(model_card(META, {"data": {"train": "hf://datasets/acme/mail@main/train.parquet", "eval": 0.1}}))
    result = data.eval_results[0]
    assert result.dataset_type == "acme/mail"
    assert result.dataset_name == "train.parquet (a held-out share of 0.1)"


def test_flat_baselines_are_read_as_the_deciding_metric() -> None:
    text = model_card({**META, "baselines": {"majority": 0.25}}, SPEC)
    assert "| accuracy | **0.9375** | 0.25 |" in text


def test_an_export_names_its_own_library() -> None:
    text = model_card(META, SPEC, library="transformers", usage="Load it with from_pretrained.")
    assert read(text).library_name == "transformers"
    assert "Load it with from_pretrained." in text and "regraft.load" not in text
    assert "the complete model" in text and "the complete model" not in model_card(META, SPEC)


@pytest.mark.parametrize(
    "reference, expected",
    [
        ("acme/bert", "acme/bert"),
        ("acme/bert@v1", "acme/bert"),
        ("package:gt/model", None),
        ("s3://bucket/model", None),
        ("/abs/folder", None),
        ("./a/b", None),
        ("a/b/c", None),
    ],
)
def test_only_the_hubs_own_ids_count_as_such(reference: str, expected: str | None) -> None:
    assert hub_id(reference) == expected


def test_a_task_that_the_hub_has_no_name_for_names_the_pipeline_that_runs_it() -> None:
    changed = {**META, "task": {"type": "text-regression", "targets": ["rating"]}}
    assert "pipeline_tag: text-classification" in model_card(changed, SPEC)


def test_the_card_opens_with_the_code_that_uses_the_model() -> None:
    text = model_card(META, SPEC).split("---\n", 2)[2]
    assert (
        text.index("# support-tickets")
        < text.index("```python")
        < text.index("It knows 3 labels")
        < text.index("\n## ")
    )


def test_the_score_is_judged_against_each_baseline() -> None:
    text = model_card(META, SPEC)
    assert "not distinguishable" not in text and "better than the baseline nearest centroid (0.875; +0.062" in text
    worse = {**META, "gain": {"mean": -0.06, "low": -0.1, "high": -0.02}}
    worse["metrics"] = {"accuracy": 0.815}
    assert "worse than the baseline nearest centroid" in model_card(worse, SPEC)
    unclear = {**META, "gain": {"mean": 0.01, "low": -0.02, "high": 0.04}}
    assert "not distinguishable from the baseline nearest centroid" in model_card(unclear, SPEC)


def remarked(**data: Any) -> str:
    lineage = {**META["lineage"], "data": {**META["lineage"]["data"], **data}}
    return model_card({**META, "lineage": lineage}, SPEC)


def test_rows_of_both_sides_are_counted_on_the_card() -> None:
    assert "| evaluation rows that are training rows too | 12 of 200 |" in remarked(overlap=12)
    assert "| evaluation rows that are training rows too | 0 of 200 |" in remarked(overlap=0)
    assert "training rows too" not in model_card(META, SPEC), "an older version does not know"


def test_what_was_noticed_about_the_rows_is_on_the_card_without_the_folders_of_the_machine() -> None:
    notes = [
        "passed over files named *.xmp: 3, the first /home/someone/private/tickets-train/a b.xmp",
        "3 <b>labels</b> | are\nodd: 2 rows, the first /home/someone/private/tickets-eval.csv:7",
        "cut at 128 tokens: 4 rows, the first /srv/other/rows.csv:2",
    ]
    text = remarked(notes=notes, skipped={"train": 2, "eval": 1})
    assert "/home" not in text and "private" not in text and "/srv" not in text
    assert "- `passed over files named *.xmp: 3, the first tickets-train/a b.xmp`" in text
    assert "- `3 <b>labels</b> | are odd: 2 rows, the first tickets-eval.csv:7`" in text
    assert "the first rows.csv:2" in text
    assert "| train rows left out as unusable | 2 |" in text and "| eval rows left out as unusable | 1 |" in text
