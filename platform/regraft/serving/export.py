"""Export of a model as a folder that transformers or sentence-transformers loads without regraft."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from regraft.bases.adapted import Adapted
from regraft.bases.load import quiet
from regraft.contracts import Example, MadeUp, columns_of
from regraft.errors import RequestError, Unsupported
from regraft.plugins import add_folder
from regraft.serving.export_usage import (
    EMBEDDING_NOTE,
    HEAD,
    HEAD_LABELS,
    PICTURE_VECTOR_NOTE,
    SENTENCE_NOTE,
    embedding_usage,
    picture_vector_usage,
    sentence_usage,
    transformers_usage,
)
from regraft.serving.predictor import load_adapted
from regraft.serving.row_checks import prediction_columns
from regraft.serving.version_files import Fetched, fetch
from regraft.store.card import model_card
from regraft.store.comparisons import with_comparison
from regraft.store.objects import ObjectStore, open_store
from regraft.tasks.inputs.pooled_encoder import PooledEncoder, PooledPictures, Pooling
from regraft.tasks.inputs.text import TextRow
from regraft.units import with_article

ENCODER, POOLING, NORMALIZE = "0_Transformer", "1_Pooling", "2_Normalize"


@dataclass(frozen=True, slots=True)
class Exported:
    """An exported model: the folder, the library that reads it, and a note on its use.

    A folder of vectors is of both: sentence-transformers reads all of it, and transformers the base.
    """

    folder: Path
    kind: Literal["transformers", "sentence-transformers"]
    note: str


def export(
    store: ObjectStore | str,
    reference: str,
    into: Path,
    *,
    plugins: Sequence[str | Path] = (),
    base: str | None = None,
) -> Exported:
    """Write the model, base and delta merged, into the folder `into`, which must be new or empty.

    The folder appears atomically. Models that a transformers class covers become a transformers folder, and so does a
    base with other parts beside it that a task names. A classifier on mean-pooled tokens, for which transformers has no
    class, becomes a sentence-transformers folder with its linear head beside it; transformers alone refuses that
    folder. Raises Unsupported for any other model, and the errors of
    `Predictor.open`.
    """
    into = into.expanduser().resolve()
    _refuse_full(into)
    for folder in plugins:
        add_folder(Path(folder).expanduser())
    fetched = fetch(open_store(store) if isinstance(store, str) else store, reference)
    adapted = load_adapted(fetched, base)
    adapted.method.merge(adapted.model)
    adapted.task.merge(adapted.model)
    partial = into.parent / f".{into.name}-{uuid4().hex}"
    try:
        partial.mkdir(parents=True)
        kind, note = _write(adapted, fetched, partial)
        _publish(partial, into)
    except OSError as error:
        raise RequestError(f"cannot be written ({error.strerror or error})", where=str(into)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Exported(into, kind, note)


def _write(
    adapted: Adapted, fetched: Fetched, folder: Path
) -> tuple[Literal["transformers", "sentence-transformers"], str]:
    model, beside = adapted.task.exported(adapted.model)
    if isinstance(model, PreTrainedModel):
        _processor(adapted, fetched, folder)
        _save(model, adapted.context.labels if beside is None else (), folder)
        if beside is not None:
            _head_files(beside, adapted.context.labels, folder, reads="image_embeds")
        usage, note = transformers_usage(adapted, model)
        _card(fetched, folder, "transformers", usage)
        return "transformers", note
    if isinstance(model, PooledEncoder):
        return _sentence_encoder(model, adapted, fetched, folder)
    if isinstance(model, PooledPictures):
        base = model.base
        assert isinstance(base, PreTrainedModel)
        _processor(adapted, fetched, folder)
        _save(base, (), folder)
        _card(fetched, folder, "transformers", picture_vector_usage(adapted, model))
        return "transformers", PICTURE_VECTOR_NOTE
    if (parts := adapted.task.export_parts(model, adapted.context)) is not None:
        _processor(adapted, fetched, folder)
        _save(parts.base, (), folder)
        _tensors(parts.tensors, folder / parts.file)
        _card(fetched, folder, "transformers", parts.usage)
        return "transformers", parts.note
    encoder, head = _pooled(model, adapted)
    # Not in the folder itself, where transformers would load the encoder as a classifier with a head of random weights.
    below = folder / ENCODER
    _processor(adapted, fetched, below)
    _save(encoder, (), below)
    _sentence_files(adapted, encoder, folder, parts=((ENCODER, "Transformer"), (POOLING, "Pooling")))
    # A task without classes names the head's outputs itself.
    _head_files(head, adapted.context.labels or tuple(encoder.config.id2label.values()), folder)
    _card(fetched, folder, "sentence-transformers", sentence_usage(adapted, encoder.config.problem_type))
    return "sentence-transformers", SENTENCE_NOTE


def _sentence_encoder(
    model: PooledEncoder, adapted: Adapted, fetched: Fetched, folder: Path
) -> tuple[Literal["transformers", "sentence-transformers"], str]:
    """Write a base without a head, its pooling and the length 1; transformers loads the base from the same folder."""
    encoder = model.base
    assert isinstance(encoder, PreTrainedModel)
    _processor(adapted, fetched, folder)
    _save(encoder, (), folder)
    parts = (("", "Transformer"), (POOLING, "Pooling"), (NORMALIZE, "Normalize"))
    _sentence_files(adapted, encoder, folder, parts=parts, pooling=model.pooling)
    (folder / NORMALIZE).mkdir()
    _card(fetched, folder, "sentence-transformers", embedding_usage(adapted))
    return "sentence-transformers", EMBEDDING_NOTE


def _processor(adapted: Adapted, fetched: Fetched, folder: Path) -> None:
    """Write tokenizer or image processor, with the task's chat template and the number of tokens that it reads."""
    shutil.copytree(fetched.processor, folder, dirs_exist_ok=True)
    if template := getattr(adapted.context.processor, "chat_template", None):
        # The task's template if it has one: the model was trained with it, not with the base's.
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    settings = folder / "tokenizer_config.json"
    cut = isinstance(adapted.task, TextRow) or isinstance(adapted.model, PooledEncoder)
    if cut and settings.is_file():
        written = json.loads(settings.read_text(encoding="utf-8"))
        _json(settings, {**written, "model_max_length": _tokens(adapted)})


def _save(model: PreTrainedModel, labels: Sequence[str], folder: Path) -> None:
    if labels:
        model.config.id2label = dict(enumerate(labels))
        model.config.label2id = {label: number for number, label in enumerate(labels)}
    with quiet():
        model.save_pretrained(folder)


def _pooled(model: nn.Module, adapted: Adapted) -> tuple[PreTrainedModel, nn.Linear]:
    """Return the encoder and the linear head of a classifier on mean-pooled tokens.

    Raises Unsupported for any other model.
    """
    encoder = getattr(model, adapted.anatomy.prefix or "base", None)
    unsupported = (
        f"{with_article(type(model).__name__)} of task {adapted.task.key()} has no class in transformers to be "
        "exported to; use it by regraft.load"
    )
    columns = columns_of(prediction_columns(adapted.task)).values()
    texts = all(isinstance(column.made_up(MadeUp(0, ("a",))), str) for column in columns)
    if not isinstance(encoder, PreTrainedModel) or not texts:
        raise Unsupported(unsupported)
    head = adapted.linear_head()
    # Computed, not guessed from names: with another pooling, a similar model would give other answers once exported.
    batch = adapted.task.collate([_example(adapted, "What is this text about?")], adapted.context)
    given = {name: value for name, value in batch.items() if name != "labels"}
    with torch.inference_mode():
        states = encoder(**given).last_hidden_state
        wanted, found = adapted.forward(batch).logits, head(states.mean(1))
    if not torch.allclose(wanted, found, rtol=1e-4, atol=1e-4):
        raise Unsupported(unsupported)
    return encoder, head


def _example(adapted: Adapted, text: str) -> Example:
    return adapted.task.encode(dict.fromkeys(prediction_columns(adapted.task), text), adapted.context, train=False)


def _sentence_files(
    adapted: Adapted,
    encoder: PreTrainedModel,
    folder: Path,
    *,
    parts: Sequence[tuple[str, str]],
    pooling: Pooling = "mean",
) -> None:
    """Write the files of a sentence-transformers model, in a layout that all of its versions read.

    `parts` are the folders of its modules, the encoder's first, and their kinds.
    """
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{name}"}
        for number, (path, name) in enumerate(parts)
    ]
    _json(folder / "modules.json", modules)
    modes = {
        "word_embedding_dimension": encoder.config.hidden_size,
        "pooling_mode_cls_token": pooling == "cls",
        "pooling_mode_mean_tokens": pooling == "mean",
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }
    (folder / POOLING).mkdir()
    _json(folder / POOLING / "config.json", modes)
    _json(
        folder / parts[0][0] / "sentence_bert_config.json", {"max_seq_length": _tokens(adapted), "do_lower_case": False}
    )
    _json(folder / "config_sentence_transformers.json", {"prompts": {}, "default_prompt_name": None})


def _tokens(adapted: Adapted) -> int:
    """Return how many tokens of an endless text the task reads, found by encoding one."""
    return len(_example(adapted, "a " * 20_000)["input_ids"])


def _head_files(head: nn.Linear, labels: Sequence[str], folder: Path, *, reads: str = "sentence_embedding") -> None:
    _tensors(dict(head.named_parameters()), folder / HEAD)
    _json(folder / HEAD_LABELS, {"labels": list(labels), "input": reads, "file": HEAD})


def _tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    held = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(held, file, metadata={"format": "pt"})


def _card(fetched: Fetched, folder: Path, library: str, usage: str) -> None:
    text = model_card(with_comparison(fetched.version), fetched.spec, library=library, usage=usage)
    (folder / "README.md").write_text(text, encoding="utf-8")


def _refuse_full(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        message = "exists and is not empty; allowed is a folder that is new or empty: name another one"
        raise RequestError(message, where=str(folder))


def _publish(partial: Path, into: Path) -> None:
    """Rename into place; an empty folder is replaced, one that was filled meanwhile is kept."""
    mode = (partial / "README.md").stat().st_mode
    for path in partial.rglob("*.safetensors"):
        path.chmod(mode)  # safetensors writes files that only their owner can read
    try:
        partial.rename(into)
    except OSError:
        _refuse_full(into)
        raise


def _json(path: Path, document: Mapping[str, Any] | Sequence[Any]) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
