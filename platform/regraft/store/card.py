"""The model card of a version, in the format of the Hugging Face Hub."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from regraft.contracts import Task
from regraft.errors import RegraftError
from regraft.store.baseline_verdicts import recorded_verdicts, sentence
from regraft.store.bounded_yaml import dump_yaml
from regraft.store.comparisons import comparison_texts, control_name
from regraft.units import counted

_HUB_ID = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@[\w./-]+)?")
# The hub rejects unknown pipelines, and a user's own task may have any name.
_PIPELINES = {
    "audio-classification",
    "automatic-speech-recognition",
    "depth-estimation",
    "feature-extraction",
    "fill-mask",
    "image-classification",
    "image-feature-extraction",
    "image-segmentation",
    "object-detection",
    "question-answering",
    "sentence-similarity",
    "summarization",
    "text-classification",
    "text-generation",
    "token-classification",
    "translation",
    "zero-shot-image-classification",
}

_ENCODERS, _ENCODER = "sentence-transformers", "feature-extraction"
"""A library whose models are encoders, whatever head lies beside them, and the pipeline that runs them."""
_FOLDERS = re.compile(r"(?<![\w:/.])/(?:[^\s/:'\"]+/)+")

_DELTA = "The version holds only the weights that training changed (the delta); the base is unchanged."
_MERGED = "This folder holds the complete model: the base with the trained weights merged into it."


_BASELINES = {
    "majority": "The baseline majority always answers the most frequent label.",
    "nearest_centroid": "The baseline nearest centroid compares features of the frozen base with the classes' means.",
}


def model_card(
    meta: Mapping[str, Any], spec: Mapping[str, Any], *, library: str = "regraft", usage: str | None = None
) -> str:
    """Return the card of a version: YAML front matter that `huggingface_hub.ModelCard` reads, then text for people.

    `meta` is the version's registry entry and `spec` its resolved spec. An export in the format of another `library`
    passes the library's name and its own `usage` section (Markdown).
    """
    front = dump_yaml(_front(meta, spec, library), width=1000)
    sections = (
        _header(meta, library, usage or _usage(meta, spec)),
        _section("How it was adapted", _adaptation(meta, spec)),
        *([_section("Another domain", _domain(meta["adapt"]))] if meta.get("adapt") else []),
        _section("Results", _results(meta)),
        *(_taught(one, str(meta["name"])) for one in taught_classes(meta)),
        _section("Data", _data(meta, spec)),
        _section("Lineage", _lineage(meta)),
    )
    return f"---\n{front}---\n\n" + "\n".join(sections)


def hub_id(reference: str) -> str | None:
    """Return `org/name` if a base's reference is one of the hub; None for folders, packages and URLs."""
    found = _HUB_ID.fullmatch(reference)
    return found["id"] if found else None


def _front(meta: Mapping[str, Any], spec: Mapping[str, Any], library: str) -> dict[str, Any]:
    task = str(meta["task"]["type"])
    base = hub_id(str(meta["base"]["reference"]))
    front: dict[str, Any] = {"library_name": library}
    if pipeline := _ENCODER if library == _ENCODERS else _pipeline(meta["task"]):
        front["pipeline_tag"] = pipeline
    if base:
        front["base_model"] = base
    front["tags"] = ["regraft", str(meta["method"]["type"])]
    metrics = _finite(meta.get("metrics", {}))
    if metrics:
        front["model-index"] = [{"name": str(meta["name"]), "results": [_result(meta, spec, task, metrics)]}]
    return front


def _pipeline(task: Mapping[str, Any]) -> str | None:
    """Return the name of a task in the Inference API; None if the hub has no pipeline of that name."""
    try:
        found = Task.parse(dict(task))
    except (ValueError, RegraftError):  # a user's own task whose plugin is not loaded
        return None
    name = found.api_form().name if isinstance(found, Task) else ""
    return name if name in _PIPELINES else None


def _result(
    meta: Mapping[str, Any], spec: Mapping[str, Any], task: str, metrics: Mapping[str, float]
) -> dict[str, Any]:
    score = meta.get("score", {}).get("name")
    names = sorted(metrics, key=lambda name: (name != score, name))
    return {
        "task": {"type": task, "name": task.replace("-", " ").capitalize()},
        "dataset": {"type": _dataset_type(spec), "name": _dataset_name(meta, spec)},
        "metrics": [{"type": name, "value": round(metrics[name], 6), "name": name} for name in names],
    }


def _finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers among the metrics: the hub's parser rejects a card that contains NaN."""
    numbers = {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def _dataset_name(meta: Mapping[str, Any], spec: Mapping[str, Any]) -> str:
    """Return the name of the evaluated file, without the folders of the machine that trained."""
    data = spec.get("data", {})
    held_out = data.get("eval")
    share = "" if isinstance(held_out, str) else f" (a held-out share of {held_out})"
    written = held_out if isinstance(held_out, str) else data.get("train")
    name = str(written or "").rstrip("/").rsplit("/", 1)[-1]
    return f"{name}{share}" if name else f"{meta['name']} evaluation data"


def _dataset_type(spec: Mapping[str, Any]) -> str:
    """Return the hub's dataset id if the data came from there, else the name of the file's format."""
    data = spec.get("data", {})
    written = str(data.get("eval") if isinstance(data.get("eval"), str) else data.get("train") or "")
    if written.startswith("hf://datasets/"):
        return "/".join(written.removeprefix("hf://datasets/").split("@")[0].split("/")[:2])
    name = written.rstrip("/").rsplit("/", 1)[-1]
    suffix = name.rsplit(".", 1)[-1].lower() if "." in name else ""
    return suffix if re.fullmatch(r"[a-z0-9]+", suffix) else "folder"


def _header(meta: Mapping[str, Any], library: str, usage: str) -> str:
    """Return title, one sentence, the code that uses the model, and its labels."""
    version = f" ({meta['version']})" if "version" in meta else ""
    task = str(meta["task"]["type"]).replace("-", " ")
    lines = [
        f"# {meta['name']}{version}",
        "",
        f"A model for {task}: {_code(meta['base']['reference'])} adapted by `{meta['method']['type']}` "
        f"with regraft. {_DELTA if library == 'regraft' else _MERGED}",
        "",
        usage.rstrip(),
        "",
    ]
    if labels := list(meta.get("labels", ())):
        shown = ", ".join(_code(label) for label in labels[:50])
        more = f" and {len(labels) - 50} more" if len(labels) > 50 else ""
        lines += [f"It knows {len(labels)} labels: {shown}{more}.", ""]
    return "\n".join(lines)


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body.rstrip()}\n"


def _usage(meta: Mapping[str, Any], spec: Mapping[str, Any]) -> str:
    reference = f"{meta['name']}@{meta['version']}" if "version" in meta else str(meta["name"])
    plugins = ", plugins=[...]" if spec.get("plugins") else ""
    return (
        f'```python\nimport regraft\n\nmodel = regraft.load("{reference}"{plugins})\n'
        "answers = model.predict(rows)  # a list of rows; a bare text or image path is enough where a row has one "
        "column\n```"
    )


def _adaptation(meta: Mapping[str, Any], spec: Mapping[str, Any]) -> str:
    training = spec.get("training", {})
    rows: list[tuple[object, ...]] = [("method", _fields(meta["method"])), ("task", _fields(meta["task"]))]
    rows += [("loss term", _fields(loss)) for loss in spec.get("losses", ())]
    rows += [(name, training[name]) for name in ("epochs", "batch_size", "lr", "optimizer") if name in training]
    rows += [("seed", meta["seed"])] if "seed" in meta else []
    rows += [("seconds", round(float(meta["seconds"]), 1))] if meta.get("seconds") is not None else []
    rows += [("delta", f"{int(meta['delta_bytes']):,} bytes")] if meta.get("delta_bytes") is not None else []
    return _table(("", "value"), rows)


def _fields(member: Mapping[str, Any]) -> str:
    """Return a plugin as one line: `lora (rank 8, alpha 16)`."""
    fields = ", ".join(f"{key} {value}" for key, value in member.items() if key != "type")
    return f"{member['type']} ({fields})" if fields else str(member["type"])


def _domain(adapt: Mapping[str, Any]) -> str:
    """Return what a version was adapted to without labels, why, and the risk."""
    said = [_one_line(adapt[name]) for name in ("why", "risk") if adapt.get(name)]
    source, rows = _code(adapt.get("source_only", "")), adapt.get("target_rows", 0)
    first = f"Chosen for rows of another domain ({rows:,} of them were read): {_code(adapt.get('chosen', ''))}, "
    return "\n\n".join([f"{first}beside the source-only model {source}.", *said])


def _results(meta: Mapping[str, Any]) -> str:
    metrics, baselines = _finite(meta.get("metrics", {})), meta.get("baselines", {})
    if not metrics:
        return "No metrics were recorded."
    score = meta.get("score", {})
    measured_on = {
        name: value if isinstance(value, Mapping) else {score.get("name"): value} for name, value in baselines.items()
    }
    measured = {name: _finite(values) for name, values in measured_on.items()}
    names = sorted(metrics, key=lambda name: (name != score.get("name"), name))
    rows = [
        (name, f"**{metrics[name]:.4g}**", *(_number(values.get(name)) for values in measured.values()))
        for name in names
    ]
    chosen = f"\n\nThe checkpoint was chosen by `{score['name']}` ({score['mode']})." if score else ""
    return (
        _table(("metric", "this model", *measured), rows)
        + _beside_baselines(meta)
        + _beside_controls(meta)
        + chosen
        + _without_taught(meta)
        + _on_test(meta)
    )


def _without_taught(meta: Mapping[str, Any]) -> str:
    absent = ", ".join(_code(label) for label in unmeasured_classes(meta))
    return f"\n\nNo row of {absent} is in these metrics." if absent else ""


def _on_test(meta: Mapping[str, Any]) -> str:
    """Return the metrics on the test rows with their intervals; empty for a version without test rows."""
    test = meta.get("test") or {}
    metrics = _finite(test.get("metrics", {}))
    if not metrics:
        return ""
    score = (meta.get("score") or {}).get("name")
    names = sorted(metrics, key=lambda name: (name != score, name))
    intervals = test.get("intervals", {})
    shown = {name: " to ".join(_number(end) for end in bounds.values()) for name, bounds in intervals.items()}
    table = _table(
        ("metric", "test rows", "95 % interval"),
        [(name, _number(metrics[name]), shown.get(name, "")) for name in names],
    )
    return (
        f"\n\nMeasured once on {counted(int(test.get('rows', 0)), 'test row')}, which chose nothing in training, with "
        f"intervals of a bootstrap:\n\n{table}"
    )


def _beside_baselines(meta: Mapping[str, Any]) -> str:
    """Return the verdicts about the score, and what the baselines are."""
    text = sentence(recorded_verdicts(meta), str((meta.get("score") or {}).get("name", "")))
    if not text:
        return ""
    what = [_BASELINES[name] for name in meta["baselines"] if name in _BASELINES]
    return f"\n\n{text} Intervals are of paired bootstraps on the evaluation rows. {' '.join(what)}".rstrip()


def _beside_controls(meta: Mapping[str, Any]) -> str:
    """Return the table of controls and the verdict; empty for a version that was not compared."""
    comparison = meta.get("comparison") or {}
    if not comparison.get("controls"):
        return ""
    rows = [
        (
            control_name(str(one.get("name"))),
            _number(one.get("value")),
            _with_sign(one.get("difference")),
            " to ".join(text for end in ("low", "high") if (text := _with_sign(one.get(end)))),
        )
        for one in comparison["controls"]
    ]
    score = str((comparison.get("score") or {}).get("name", "score"))
    table = _table(("control", score, "this model minus it", "95 % interval"), rows)
    texts = [_one_line(text) for text in comparison_texts(comparison)]
    warned = [f"**{text}**" if comparison.get("warning") and not at else text for at, text in enumerate(texts)]
    return "\n\n" + "\n\n".join([*warned, table])


def _with_sign(value: float | None) -> str:
    return "" if value is None else f"{value:+.3f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def taught_classes(meta: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what the lineage of a version holds of classes that were taught without training, oldest first."""
    return [one for one in (meta.get("lineage") or {}).get("taught") or [] if isinstance(one, Mapping)]


def taught_sentence(taught: Mapping[str, Any], name: str) -> str:
    """Return what is known of a taught class, besides the effect on each class."""
    on = taught.get("measured_on") or {}
    rows = {"version": "rows that the version keeps", "snapshot": "evaluation rows of its training"}
    given = rows.get(str(on.get("source")), "rows that were given for it")
    examples = int(taught.get("rows") or 0)
    recognised = taught.get("recognised")
    alone = "" if recognised is None else f"; {recognised} of the examples are recognised by the others"
    start = f"From {counted(examples, 'example')}, without training, on {name}@{taught.get('from')}."
    moved = int(taught.get("moved") or 0)
    if taught.get("bias") is None:  # a detector learned that rows are usual
        measured = f"Measured on {int(on.get('rows') or 0):,} {given}, of which {moved:,} are wrong since."
        return f"{start} {measured}" if on else start
    return (
        f"{start} Measured on {int(on.get('rows') or 0):,} {given}, of which {moved:,} of other classes moved to "
        f"it: its bias was set on the same rows{alone}."
    )


def unmeasured_classes(meta: Mapping[str, Any]) -> list[str]:
    """Return the classes of which no row is in the metrics of a version that a class was taught to."""
    last = taught_classes(meta)[-1:]
    return [str(one.get("label")) for taught in last for one in taught.get("effect") or () if not one.get("rows")]


def _taught(taught: Mapping[str, Any], name: str) -> str:
    """Return the section about a class that was taught without training: what it did to the classes of before."""
    rows = [
        (_code(one.get("label")), one.get("rows"), _number(one.get("before")), _number(one.get("after")))
        for one in taught.get("effect") or ()
    ]
    table = _table(("class", "rows", "recall before", "recall after"), rows)
    title = f"Taught afterwards: {_code(taught.get('class'))}"
    return _section(title, f"{taught_sentence(taught, name)}\n\n{table}")


def _data(meta: Mapping[str, Any], spec: Mapping[str, Any]) -> str:
    data = meta.get("lineage", {}).get("data", {})
    counts = data.get("rows", {})
    rows: list[tuple[object, ...]] = [
        (f"{split} rows", counts[split]) for split in ("train", "eval", "test") if split in counts
    ]
    rows += [("evaluated on", _dataset_name(meta, spec))]
    if (overlap := data.get("overlap")) is not None:
        rows += [("evaluation rows that are training rows too", f"{overlap:,} of {counts.get('eval', 0):,}")]
    if (test := data.get("test_overlap")) is not None:
        of = f"of {counts.get('test', 0):,}"
        rows += [("test rows that are training rows too", f"{test.get('train', 0):,} {of}")]
        rows += [("test rows that are evaluation rows too", f"{test.get('eval', 0):,} {of}")]
    rows += [(f"{split} rows left out as unusable", number) for split, number in data.get("skipped", {}).items()]
    rows += [("fingerprint", f"`{data['fingerprint']}`")] if "fingerprint" in data else []
    return _table(("", "value"), rows) + _data_notes(data.get("notes", ()), spec)


def _data_notes(notes: Sequence[str], spec: Mapping[str, Any]) -> str:
    """Return what was noticed while the rows were read, without the folders of the machine that trained."""
    if not notes:
        return ""
    lines = "".join(f"\n- {_code(_without_folders(note, spec))}" for note in notes)
    return f"\n\nNoticed while the rows were read:\n{lines}"


def _without_folders(text: str, spec: Mapping[str, Any]) -> str:
    """Return a text in which files of the data are named without the folders that they lie in."""
    written = [spec.get("data", {}).get(side) for side in ("train", "eval", "test")]
    for path in sorted((item for item in written if isinstance(item, str)), key=len, reverse=True):
        folder, slash, _ = path.rstrip("/").rpartition("/")
        text = text.replace(f"{folder}{slash}", "") if folder else text
    return _FOLDERS.sub("", text)


def _lineage(meta: Mapping[str, Any]) -> str:
    lineage, base = meta.get("lineage", {}), meta["base"]
    rows: list[tuple[object, ...]] = [("base", _code(base["reference"])), ("base hash", f"`{base['hash']}`")]
    named = ("run", "checkpoint", "parent", "adapted_from")
    rows += [(name.replace("_", " "), _code(lineage[name])) for name in named if lineage.get(name)]
    if lineage.get("soup"):
        rows.append(("average of the checkpoints of steps", ", ".join(map(str, lineage["soup"]))))
    if (lineage.get("search") or {}).get("status") == "stopped":
        rows.append(("training", "stopped early by the search that it is from"))
    rows += [("ancestors", _code(" < ".join(lineage["ancestors"])))] if lineage.get("ancestors") else []
    rows += [("delta SHA-256", f"`{meta['delta_sha256']}`")] if meta.get("delta_sha256") else []
    rows += [("created", meta["created"])] if meta.get("created") else []
    rows += [(f"{name} version", version) for name, version in meta.get("versions", {}).items()]
    return _table(("", "value"), rows)


def _table(header: tuple[str, ...], rows: list[Any]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: object) -> str:
    return _one_line(value).replace("|", "\\|")


def _code(value: object) -> str:
    """Return a value as code, so that nothing in it is Markdown or HTML."""
    return f"`{_one_line(value).replace('`', chr(39))}`"


def _one_line(value: object) -> str:
    """Return a value on one line: a line break in a label would end the table, or begin a heading."""
    return " ".join(str(value).split())
