"""What users write in a spec: words that YAML takes for others, names of other tools, sides exchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from regraft.contracts import Method, Source, Task
from regraft.errors import RequestError, SpecError, UnknownPlugin
from regraft.spec.document import parse_set, read_document
from regraft.spec.run import RunSpec
from regraft.spec.serve import ServeSpec
from regraft.spec.synonyms import _OTHER_NAMES, _fields
from regraft.spec.yaml_words import parse_yaml

SPEC = """
name: r
base: some/base
task: text-classification
method: feature-extraction
data: {train: rows.csv}
"""


def load(folder: Path, **changes: str) -> RunSpec:
    """Load the spec with sections replaced by YAML text."""
    lines = [line for line in SPEC.strip().splitlines() if line.partition(":")[0] not in changes]
    path = folder / "spec.yaml"
    path.write_text("\n".join([*lines, *(f"{key}: {value}" for key, value in changes.items())]))
    return RunSpec.load(path)


def problems(folder: Path, **changes: str) -> str:
    with pytest.raises(SpecError) as refused:
        load(folder, **changes)
    return str(refused.value)


@pytest.mark.parametrize(
    ("written", "labels"),
    [
        ("[no, yes]", ("no", "yes")),
        ("[off, on, y, n]", ("off", "on", "y", "n")),
        ("[0, 1]", ("0", "1")),
        ("[1.0, 2.50]", ("1.0", "2.50")),
        ("[001, 010, 0x1F]", ("001", "010", "0x1F")),
        ("[True, false]", ("True", "false")),
        ("[null, nan, ~]", ("null", "nan", "~")),
        ("[2024-01-01, 12:30:00, 1_000]", ("2024-01-01", "12:30:00", "1_000")),
        ("['yes', \"no\"]", ("yes", "no")),
        ("\n    - no\n    - yes", ("no", "yes")),
    ],
)
def test_labels_are_the_text_that_is_written(tmp_path: Path, written: str, labels: tuple[str, ...]) -> None:
    assert load(tmp_path, data=f"\n  train: rows.csv\n  labels: {written}").data.labels == labels


def test_weights_of_labels_are_named_as_they_are_written(tmp_path: Path) -> None:
    weights = load(tmp_path, training="{class_weights: {yes: 2, no: 1, 0: 3, 1.0: 4, 007: 5}}").training.class_weights
    assert weights == {"yes": 2, "no": 1, "0": 3, "1.0": 4, "007": 5}
    space = parse_yaml("space: {training.class_weights: {choice: [none, {yes: 2.0, no: 1}]}}")
    assert space["space"]["training.class_weights"]["choice"] == ["none", {"yes": 2.0, "no": 1}]


def test_off_and_no_are_words_where_words_are_allowed(tmp_path: Path) -> None:
    spec = load(
        tmp_path,
        data="{train: rows.csv, augment: off}",
        compute="{trunk: off, compile: no}",
        training="{bucketing: no, baselines: on}",
    )
    assert (spec.data.augment, spec.compute.trunk, spec.compute.compile) == ("off", "off", False)
    assert (spec.training.bucketing, spec.training.baselines) == (False, True)
    overrides = parse_set(["compute.trunk=off", "data.labels=[no, yes]", "training.class_weights={no: 2}"])
    assert overrides == {
        "compute.trunk": "off",
        "data.labels": ["no", "yes"],
        "training.class_weights": {"no": 2},
    }


def test_labels_from_python_are_text_or_whole_numbers() -> None:
    base: dict[str, Any] = {
        "name": "r",
        "base": "some/base",
        "task": "text-classification",
        "method": "feature-extraction",
    }
    found = RunSpec.resolve({**base, "data": {"train": "r.csv", "labels": [0, 1]}})
    assert found.data.labels == ("0", "1")
    with pytest.raises(
        SpecError, match=r"data\.labels: True is written; a label is text: write it as the rows have it"
    ):
        RunSpec.resolve({**base, "data": {"train": "r.csv", "labels": [True, False]}})
    with pytest.raises(SpecError, match=r"data\.labels: '0' is written twice"):
        RunSpec.resolve({**base, "data": {"train": "r.csv", "labels": [0, "0"]}})


def test_what_the_spec_dumps_is_read_back_equal(tmp_path: Path) -> None:
    spec = load(tmp_path, data="{train: rows.csv, labels: [no, yes, 007]}", training="{class_weights: {off: 2}}")
    (tmp_path / "again.yaml").write_text(spec.dump())
    assert RunSpec.load(tmp_path / "again.yaml") == spec


def test_a_key_that_is_written_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("name: a\ndata: {train: x}\nname: b\n")
    with pytest.raises(RequestError, match=r"is not readable as YAML: 'name' is written twice \(line 3, column 1\)"):
        read_document(path, "a mapping")
    assert parse_yaml("a: &x {b: 1}\nc: {<<: *x, d: 2}\n") == {"a": {"b": 1}, "c": {"b": 1, "d": 2}}


@pytest.mark.parametrize(
    "text", ["a: [", "a: b: c", "\t- x", "&a [*a", "a: !!python/object:os.system x", "{a: 1}}", "\0"]
)
def test_what_is_no_yaml_is_refused_in_a_line(text: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        parse_yaml(text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("section", "written", "ours"),
    [
        ("training", "{learning_rate: 1}", "Did you mean 'lr'?"),
        ("training", "{num_train_epochs: 1}", "Did you mean 'epochs'?"),
        ("training", "{per_device_train_batch_size: 8}", "Did you mean 'batch_size'?"),
        ("training", "{Gradient-Accumulation-Steps: 8}", "Did you mean 'accumulation'?"),
        ("training", "{fp16: true}", "Did you mean 'compute.precision'?"),
        ("training", "{workers: 2}", "Did you mean 'compute.workers'?"),
        ("learning_rate", "1", "Did you mean 'training.lr'?"),
        ("epochs", "3", "Did you mean 'training.epochs'?"),
        ("model", "some/base", "Did you mean 'base'?"),
        ("output_dir", "x", "Did you mean 'store'?"),
        ("data", "{train: x, validation_file: y}", "Did you mean 'eval'?"),
        ("data", "{train: x, label_list: [a]}", "Did you mean 'labels'?"),
        ("method", "{type: lora, r: 8}", "Did you mean 'rank'?"),
        ("method", "{type: lora, target_modules: [q]}", "Did you mean 'targets'?"),
        ("search", "{space: {training.lr: {choice: [1]}}, n_trials: 5}", "Did you mean 'trials'?"),
    ],
)
def test_names_of_other_tools_are_answered_with_ours(tmp_path: Path, section: str, written: str, ours: str) -> None:
    assert ours in problems(tmp_path, **{section: written})


def test_every_key_that_is_suggested_exists() -> None:
    known = _fields(RunSpec)
    assert not [key for key in _OTHER_NAMES if "." in key and key not in known]


@pytest.mark.parametrize(
    ("family", "written", "ours"),
    [
        (Task, "ner", "token-classification"),
        (Task, "sentiment-analysis", "text-classification"),
        (Task, "image-segmentation", "semantic-segmentation"),
        (Task, "zero-shot-classification", "zero-shot-image-classification"),
        (Task, "monocular-depth-estimation", "depth-estimation"),
        (Task, "Causal_LM", "text-generation"),
        (Task, "nli", "text-pair-classification"),
        (Task, "detection", "object-detection"),
        (Method, "linear-probe", "feature-extraction"),
        (Method, "peft", "lora"),
        (Method, "finetune", "full"),
        (Source, "json", "jsonl"),
        (Source, "tsv", "csv"),
    ],
)
def test_members_are_found_by_what_other_tools_call_them(family: Any, written: str, ours: str) -> None:
    with pytest.raises(UnknownPlugin, match=f"Did you mean '{ours}'"):
        family.lookup(written)


@pytest.mark.parametrize("family", [Task, Method, Source])
def test_no_two_members_have_one_synonym(family: Any) -> None:
    found = [word for name in family.names() for word in vars(family.lookup(name)).get("synonyms", ())]
    assert len(found) == len(set(found))
    assert not set(found) & set(family.names())


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        ("{review: text}", "Write {text: review}"),
        ("{review: text, stars: label}", "Write {text: review, label: stars}"),
        ("{text: review, stars: label}", "Write {text: review, label: stars}"),
    ],
)
def test_exchanged_sides_of_columns_come_with_the_right_line(tmp_path: Path, columns: str, line: str) -> None:
    message = problems(tmp_path, data=f"{{train: rows.csv, columns: {columns}}}")
    assert "is written the wrong way round" in message
    assert "the task's name comes first, then the file's" in message
    assert message.endswith(line)


def test_an_unknown_column_says_which_side_is_which(tmp_path: Path) -> None:
    message = problems(tmp_path, data="{train: rows.csv, columns: {txt: review}}")
    assert "Unknown column 'txt'. Did you mean 'text'? Known: label, text: the task's name comes first" in message


def test_a_list_of_columns_is_for_kinds_that_join_them(tmp_path: Path) -> None:
    message = problems(tmp_path, data="{train: rows.csv, columns: {label: [a, b]}}")
    assert "data.columns.label: ['a', 'b'] is written; label is read from one column: write its name" in message
    spec = load(tmp_path, task="text-multi-label", data="{train: rows.csv, columns: {labels: [toxic, rude]}}")
    assert spec.data.columns == {"labels": ("toxic", "rude")}
    assert spec.data.labels == ("toxic", "rude")
    written = load(tmp_path, task="text-multi-label", data="{train: r.csv, columns: {labels: [b, a]}, labels: [a, b]}")
    assert written.data.labels == ("a", "b")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"compute": "{workers: two}"},
            "compute.workers: 'two' is written; input should be a valid integer or a valid list",
        ),
        ({"compute": "{gpus: all}"}, "compute.gpus: 'all' is written; input should be a valid number or 'auto'"),
        ({"compute": "{workers: [1, x]}"}, "compute.workers.1: 'x' is written; input should be a valid integer"),
        ({"training": "5"}, "training: 5 is written; input should be a valid mapping of keys"),
        ({"data": "{train: x, columns: [a]}"}, "data.columns: ['a'] is written; input should be a valid mapping"),
    ],
)
def test_a_problem_is_one_line_without_internal_words(tmp_path: Path, changes: dict[str, str], line: str) -> None:
    message = problems(tmp_path, **changes)
    assert "\n" not in message
    for word in ("literal[", "tuple", "dict", "TrainingSpec", "parse", "branch", "union"):
        assert word not in message.removeprefix(str(tmp_path))
    assert line.replace("a valid", "a").replace("  ", " ") in message.replace("a valid", "a")


def test_an_endpoints_problems_are_reported_the_same_way() -> None:
    with pytest.raises(SpecError) as refused:
        ServeSpec.resolve({"replica": {"gpus": "all"}, "limits": 5, "models": "x"})
    lines = refused.value.problems
    assert len(lines) == 3
    assert "replica.gpus: 'all' is written; input should be a valid number or 'auto'" in lines


WORDS = (
    "off", "on", "yes", "no", "n", "true", "0123", "007", "12", "1.0", "1e3", "1_000", "1-2", "2024-01-01", "0b101",
    "0o17", "0x1f", "1.5.2", "nan",
)  # fmt: skip
"""Names that YAML 1.1 reads as booleans, numbers, dates and times, all of them allowed as the name of a model."""


@pytest.mark.parametrize("word", [*WORDS, "1:30", "12:30:45", "2024-01-01 10:00:00", ".5", "+1", "1,000", "=", "0x1F"])
def test_names_of_columns_and_groups_are_the_words_that_are_written(tmp_path: Path, word: str) -> None:
    columns = f"\n  columns:\n    text: {word}\n    label: {word}"
    data = f"\n  train: rows.csv\n  group: {word}\n  labels: [{word!r}, b]{columns}"
    spec = load(tmp_path, data=data, search=f"\n  space:\n    data.group:\n      choice: [a, {word.replace(',', '')}]")
    assert (spec.data.group, spec.data.columns) == (word, {"text": word, "label": word})
    assert spec.searched().space["data.group"].values == ("a", word.replace(",", ""))
    overrides = parse_set([f"data.group={word}", f"data.columns.text={word}", f"data.columns={{label: {word!r}}}"])
    assert overrides == {"data.group": word, "data.columns.text": word, "data.columns": {"label": word}}
    targets = load(tmp_path, task=f"\n  type: text-regression\n  targets:\n    - {word}").task
    assert targets.target_columns() == {word}
    (tmp_path / "again.yaml").write_text(spec.dump())
    assert RunSpec.load(tmp_path / "again.yaml") == spec


@pytest.mark.parametrize("word", WORDS)
def test_names_of_models_are_the_words_that_are_written(tmp_path: Path, word: str) -> None:
    assert load(tmp_path, name=word).name == word
    assert parse_set([f"name={word}"]) == {"name": word}
    path = tmp_path / "serve.yaml"
    path.write_text(f"models: [{word}, b]\n")
    assert ServeSpec.load(path).models == (word, "b")


def test_numbers_are_read_where_numbers_belong_however_they_are_written(tmp_path: Path) -> None:
    spec = load(
        tmp_path,
        training="{lr: 1e-3, steps: 1_000, epochs: 010, batch_size: 0x10, weight_decay: 1.5e2, warmup: .5, seed: +7}",
        data="{train: rows.csv, eval: 2e-1}",
        search="{space: {training.lr: {loguniform: [1e-5, 1e-3]}, training.clip: {choice: [1e0, null]}}}",
    )
    training = spec.training
    assert (training.lr, training.steps, training.epochs, training.batch_size) == (0.001, 1000, 10, 16)
    assert (training.weight_decay, training.warmup, training.seed, spec.data.eval) == (150.0, 0.5, 7, 0.2)
    space = spec.searched().space
    assert space["training.lr"].bounds == (1e-5, 1e-3)
    assert [spec.override({"training.clip": value}).training.clip for value in space["training.clip"].values or ()] == [
        1.0,
        None,
    ]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"base": "2024"}, "base: 2024 is written; input should be a text: write '2024' in quotes"),
        ({"store": "1.5"}, "store: 1.5 is written; input should be a text: write '1.5' in quotes"),
        (
            {"data": "{train: ~}"},
            "data.train: None is written; input should be a text: write 'null' in quotes, or leave",
        ),
        ({"training": "{lr: 1:30}"}, "training.lr: '1:30' is written; input should be a valid number"),
        ({"training": "{epochs: 2024-01-01}"}, "training.epochs: '2024-01-01' is written; input should be a valid"),
    ],
)
def test_a_number_in_place_of_a_word_is_to_be_quoted(tmp_path: Path, changes: dict[str, str], line: str) -> None:
    assert line in problems(tmp_path, **changes)


@pytest.mark.parametrize("place", ["compute.trunk", "data.augment", "training.class_weights", "compute.precision"])
def test_a_boolean_of_another_tool_in_place_of_a_word_is_to_be_quoted(tmp_path: Path, place: str) -> None:
    with pytest.raises(SpecError, match=r"False is written; .*: write the word in quotes"):
        load(tmp_path).override({place: False})
