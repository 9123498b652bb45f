"""Feature vectors of texts and images from any base, computed in batches of like lengths that fit the cache."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from regraft.bases.load import BaseLoader, load_processor
from regraft.bases.locate import Base
from regraft.contracts import Context, Kind, Medium, Row, medium_of
from regraft.errors import BaseError, DataError, Unsupported
from regraft.tasks.inputs.tokens import padded, positions

Pooling = Literal["mean", "cls", "pooler", "last", "image"]
Dtype = Literal["auto", "fp32", "bf16"]
Vector = NDArray[np.float32]

TOKENS_PER_THREAD = 1024
"""Tokens in a batch for each CPU thread: a layer's activations then stay in a core's second-level cache."""
TOKENS_ON_GPU = 1 << 16
IMAGES = 32
MAX_HELD = 1 << 25
"""Input numbers that wait for others of their shape: 128 MiB."""
SAMPLE = 64
MIN_COSINE = 0.999
"""Smallest cosine between a sample's vectors in bf16 and fp32 for which bf16 is used."""
DEFAULT_LENGTH = 512
"""Tokens read when neither tokenizer nor configuration gives a limit."""
NATIVE_BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""CPU flags of native bf16 multiplication; other processors emulate it, which is slower."""

_MODULES = {"Transformer", "Pooling", "Normalize"}
_POOLINGS: dict[str, Pooling] = {"mean": "mean", "mean_tokens": "mean", "cls": "cls", "cls_token": "cls"}


@dataclass(frozen=True)
class Recipe:
    """The computation of a base's vectors, according to its files."""

    modality: str
    """The key of the medium that the base reads."""
    pooling: Pooling | None
    """None: the pooler if the base's files contain one, else the first token."""
    normalize: bool = False
    max_length: int | None = None
    prompt: str = ""
    lower: bool = False

    @property
    def columns(self) -> dict[str, Kind]:
        """The one column that a row needs."""
        kind = self.medium.column
        return {kind: kind}

    @property
    def medium(self) -> Medium:
        """The medium that the base reads."""
        return medium_of(self.modality)

    def document(self) -> dict[str, Any]:
        """Return the recipe as the identity of an unfinished output contains it."""
        return asdict(self)


def recipe_of(base: Base) -> Recipe:
    """Read the recipe from a base's files; sentence encoders have sentence-transformers' layout (`modules.json`).

    Raises Unsupported for a module, pooling or family whose vectors would differ from that library's.
    """
    media = {name: medium_of(name) for name in Medium.names()}
    found = [name for name, medium in media.items() if medium.found_in(base.path)]
    if len(found) > 1:
        both = " and ".join(sorted(found, reverse=True))
        raise Unsupported(f"this base reads {both}; features come from bases that read one medium", base.reference)
    modality = found[0] if found else next(name for name, medium in media.items() if medium.in_timm)
    if not media[modality].tokens:
        return Recipe(modality, "image")
    modules = {str(module.get("type", "")).rpartition(".")[2] for module in _json(base, "modules.json") or []}
    if strange := sorted(modules - _MODULES):
        raise Unsupported(
            f"its modules.json names {', '.join(strange)}; features are made by {', '.join(sorted(_MODULES))}",
            base.reference,
        )
    sentence = _json(base, "sentence_bert_config.json") or {}
    prompts = _json(base, "config_sentence_transformers.json") or {}
    return Recipe(
        modality,
        _pooling(base),
        normalize="Normalize" in modules,
        max_length=sentence.get("max_seq_length"),
        prompt=str((prompts.get("prompts") or {}).get(prompts.get("default_prompt_name") or "", "")),
        lower=bool(sentence.get("do_lower_case")),
    )


def _pooling(base: Base) -> Pooling | None:
    config = _json(base, "1_Pooling/config.json")
    if config is None:
        return None
    modes = [
        name.removeprefix("pooling_mode_") for name, on in config.items() if name.startswith("pooling_mode_") and on
    ]
    modes = modes or [config[name] for name in ("pooling_mode",) if isinstance(config.get(name), str)]
    if len(modes) != 1 or modes[0] not in _POOLINGS or config.get("include_prompt") is False:
        written = " and ".join(map(str, modes)) or "nothing"
        without_prompt = " without the prompt" if config.get("include_prompt") is False else ""
        raise Unsupported(
            f"it pools by {written}{without_prompt}; allowed are mean and cls", f"{base.reference}/1_Pooling"
        )
    return _POOLINGS[modes[0]]


def _json(base: Base, name: str) -> Any:
    path = base.path / name
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BaseError(f"{name} cannot be read as JSON: {error}", where=base.reference) from None


class Encoder:
    """A base in eval mode that turns rows into vectors; a vector does not depend on the other rows."""

    def __init__(self, base: Base, *, device: torch.device, dtype: Literal["fp32", "bf16"] = "fp32") -> None:
        self.base, self.device = base, device
        self.recipe = recipe_of(base)
        self._model, self.pooling = _built(base, self.recipe)
        self._model.to(device=device, dtype=torch.bfloat16 if dtype == "bf16" else torch.float32).eval()
        self._processor = load_processor(base, self.recipe.modality)
        self._context = Context(self._processor, (), getattr(self._model, "config", None))

    def __repr__(self) -> str:
        normal = ", normalised" if self.recipe.normalize else ""
        return f"Encoder({self.base.reference}, {self.pooling}{normal}, {self.device})"

    def vectors(self, rows: Sequence[Row]) -> list[Vector | DataError]:
        """Return a float32 vector (width,) for each row, in order, or the DataError of an image that cannot be read."""
        found: list[Vector | DataError] = [DataError("was not computed")] * len(rows)
        make = self._of_tokens if self.recipe.medium.tokens else self._of_tensors
        for places, output in make(rows, found):
            for place, vector in zip(places, output.float().cpu().numpy(), strict=True):
                found[place] = vector
        return found

    def _of_tokens(self, rows: Sequence[Row], _: list[Any]) -> Iterator[tuple[list[int], Tensor]]:
        texts = [self.recipe.prompt + row[self.recipe.medium.column] for row in rows]
        texts = [text.lower() for text in texts] if self.recipe.lower else texts
        # All at once: for single rows, the tokenizer's start-up costs more than its work.
        encoded = self._processor(texts, truncation=True, max_length=self._longest) if texts else {}
        lengths = [len(ids) for ids in encoded["input_ids"]] if texts else []
        for places in _budgeted(lengths, self._budget):
            examples = [{name: column[place] for name, column in encoded.items()} for place in places]
            batch = {name: part.to(self.device) for name, part in padded(examples, self._context).items()}
            mask = batch["attention_mask"]
            if lengths[places[0]] == lengths[places[-1]]:
                del batch["attention_mask"]  # no padding: attention has a faster path without a mask
            with torch.inference_mode():
                yield places, self._normal(_pooled(self._model(**batch), mask, self.pooling))

    def _of_tensors(self, rows: Sequence[Row], found: list[Any]) -> Iterator[tuple[list[int], Tensor]]:
        medium = self.recipe.medium
        waiting: dict[tuple[Any, ...], list[tuple[int, dict[str, Tensor]]]] = {}
        held = 0
        for place, row in enumerate(rows):
            try:
                tensors = medium.tensors(self._processor, row[medium.column])
            except DataError as error:
                found[place] = error
                continue
            shapes = tuple((name, *tensor.shape) for name, tensor in tensors.items())
            alike = waiting.setdefault(shapes, [])
            alike.append((place, tensors))
            size = sum(tensor.numel() for tensor in tensors.values())
            held += size
            if len(alike) == IMAGES:
                held -= IMAGES * size
                yield self._stacked(waiting.pop(shapes))
            elif held > MAX_HELD:
                yield from map(self._stacked, waiting.values())
                waiting, held = {}, 0
        yield from map(self._stacked, waiting.values())

    def _stacked(self, alike: list[tuple[int, dict[str, Tensor]]]) -> tuple[list[int], Tensor]:
        model = self._model
        dtype = next(model.parameters()).dtype
        inputs = {name: torch.stack([tensors[name] for _, tensors in alike]) for name in alike[0][1]}
        inputs = {
            name: part.to(self.device, dtype if part.is_floating_point() else None) for name, part in inputs.items()
        }
        with torch.inference_mode():
            output = model(**inputs)
            return [place for place, _ in alike], self._normal(_pooled_output(output, self.recipe.medium))

    def _normal(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors.float(), dim=-1) if self.recipe.normalize else vectors.float()

    @cached_property
    def _longest(self) -> int:
        limits = [self.recipe.max_length, self._processor.model_max_length, positions(self._context.config)]
        shortest = int(min(limit for limit in limits if limit is not None))
        return shortest if shortest < 1 << 20 else DEFAULT_LENGTH

    @property
    def _budget(self) -> int:
        return TOKENS_ON_GPU if self.device.type == "cuda" else TOKENS_PER_THREAD * torch.get_num_threads()


def _built(base: Base, recipe: Recipe) -> tuple[nn.Module, Pooling]:
    loader = BaseLoader(base)
    without: dict[str, Any] = {"add_pooling_layer": False} if recipe.pooling in ("mean", "cls") else {}
    model: Any = loader("AutoModel", **without)
    if not recipe.medium.tokens:
        return model, "image"
    config = loader.config
    if getattr(config, "is_encoder_decoder", False):
        encoder: nn.Module = model.get_encoder()
        return encoder, recipe.pooling or "mean"
    if recipe.pooling is not None:
        return model, recipe.pooling
    if getattr(model, "pooler", None) is not None and not any("pooler" in name for name in loader.missing):
        return model, "pooler"
    decoder = getattr(config, "is_decoder", False) or not _reads_both_ways(model)
    return model, "last" if decoder else "cls"


def _reads_both_ways(model: Any) -> bool:
    """Return whether the first token's state depends on later tokens; in a decoder it does not."""
    vocabulary = int(getattr(model.config, "vocab_size", 2))
    few = min(vocabulary - 1, 3)
    ids = torch.tensor([[1, few, 1, few], [1, few, few, 1]])
    model.eval()
    with torch.inference_mode():
        states = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    return not torch.equal(states[0, 0], states[1, 0])


def _pooled(output: Any, mask: Tensor, pooling: Pooling) -> Tensor:
    if pooling == "pooler":
        pooled: Tensor = output.pooler_output
        return pooled
    states: Tensor = output.last_hidden_state
    if pooling == "cls":
        return states[:, 0]
    if pooling == "last":
        return states[torch.arange(len(states)), mask.sum(1) - 1]
    kept = mask.unsqueeze(-1).float()
    return (states.float() * kept).sum(1) / kept.sum(1).clamp(min=1e-9)


def _pooled_output(output: Any, medium: Medium) -> Tensor:
    """Return the pooled output; without one, the first token or the mean over tokens or over the map.

    States are (rows, tokens, width), or a map (rows, width, y, x).
    """
    pooled = getattr(output, "pooler_output", None)
    if isinstance(pooled, Tensor):
        return pooled.flatten(1)
    states: Tensor = output.last_hidden_state
    if states.ndim == 4:
        return states.mean((2, 3))
    return states.mean(1) if medium.averages else states[:, 0]


def _budgeted(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield the positions of each batch, longest rows first: as many as stay within the budget when padded."""
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    start = 0
    while start < len(order):
        many = max(1, budget // max(1, lengths[order[start]]))
        yield order[start : start + many]
        start += many


def chosen_dtype(base: Base, rows: Sequence[Row], *, device: torch.device) -> Mapping[str, Any]:
    """Choose the `dtype` for `auto` and these rows, with `why` in words.

    It is bf16 if the processor supports it, and a sample of the rows shows that it is faster and accurate. Every
    vector of the sample must have at least MIN_COSINE to its fp32 vector. Otherwise it is fp32.
    """
    if not has_bf16(device):
        return {"dtype": "fp32", "why": "this processor has no native bf16"}
    sample = list(rows[:: max(1, len(rows) // SAMPLE)])[:SAMPLE]
    exact, exact_s = _timed(Encoder(base, device=device), sample)
    quick, quick_s = _timed(Encoder(base, device=device, dtype="bf16"), sample)
    cosine = min((_cosine(one, other) for one, other in zip(exact, quick, strict=True)), default=1.0)
    if not cosine >= MIN_COSINE:
        return {"dtype": "fp32", "why": f"bf16 turns a vector to a cosine of {cosine:.4f}"}
    if quick_s >= exact_s:
        return {"dtype": "fp32", "why": "bf16 is not faster for this base here"}
    return {"dtype": "bf16", "why": f"{exact_s / quick_s:.1f} times as fast; smallest cosine {cosine:.5f}"}


def has_bf16(device: torch.device) -> bool:
    """Return whether the device computes bf16 natively."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return any(NATIVE_BF16 & set(line.split()) for line in lines if line.startswith(("flags", "Features")))


def _timed(encoder: Encoder, rows: Sequence[Row]) -> tuple[list[Vector], float]:
    encoder.vectors(rows[:4])  # the first batch includes one-time set-up
    start = time.perf_counter()
    found = encoder.vectors(rows)
    return [vector for vector in found if not isinstance(vector, DataError)], time.perf_counter() - start


def _cosine(one: Vector, other: Vector) -> float:
    return float(one @ other / max(float(np.linalg.norm(one) * np.linalg.norm(other)), 1e-30))
