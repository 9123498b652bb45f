"""Loading of models and processors from a base's folder, without code, pickles or progress bars."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from regraft.bases.families import RULES
from regraft.bases.label_transfer import copy_known_outputs, known_labels
from regraft.bases.loading_lock import MAKING_A_MODEL
from regraft.bases.locate import Base, processor_files
from regraft.bases.sentence_pooling import declared_pooling, pooling_problem
from regraft.bases.timm import classifier_names, require_timm
from regraft.contracts import medium_of, under
from regraft.errors import BaseError, RegraftError
from regraft.store.extension_panics import is_panic
from regraft.tasks.inputs.tokens import table_size

__all__ = ["BaseLoader", "load_processor", "processor_files", "quiet"]

_log = logging.getLogger(__name__)

BROKEN_DROPOUT = {"mobilenet_v1": 0.999, "mobilenet_v2": 0.8}
"""Defaults of transformers for classifier_dropout_prob, by model_type, with which a head cannot learn."""
USUAL_DROPOUT = 0.2
SHOWN_TOKENS = 5
"""Tokens that a message lists."""
_LOCAL_ONLY = {"trust_remote_code": False, "local_files_only": True}


class BaseLoader:
    """Builds models with one base's weights, in fp32 (`contracts.Loader`)."""

    config: Any
    pooling: str | None
    pooling_problem: str
    warns: ClassVar[bool] = True
    """Whether a doubtful configuration is said."""

    def __init__(self, base: Base, dropout: float | None = None) -> None:
        self.base = base
        self.pooling, self.pooling_problem = declared_pooling(base), pooling_problem(base)
        self.missing: frozenset[str] = frozenset()
        """Names in the bare base of parameters that its files lack, such as a pooler."""
        self.initialised: frozenset[str] = frozenset()
        """Names in the models built so far of every parameter that was randomly initialised."""
        require_timm(base.path, base.reference)
        with quiet(), _as_base_error(base.reference, "config.json"):
            self.config = transformers.AutoConfig.from_pretrained(base.path, **_LOCAL_ONLY)
        _configure_dropout(self.config, dropout, warn=self.warns)

    def __call__(self, auto: str, *, labels: Sequence[str] = (), **config: Any) -> nn.Module:
        """Return the base in the Auto class `auto`.

        `labels` name the outputs of the head; outputs of labels that the base's own head has are copied from it.
        Keywords are fields of the configuration or arguments of the model's constructor. Parameters that the base lacks
        are initialised from torch's global generator; raises BaseError when they are more than head and pooler.
        """
        family = getattr(transformers, auto)
        settings = deepcopy(self.config)
        if labels:
            settings.id2label = dict(enumerate(labels))
            settings.label2id = {label: number for number, label in enumerate(labels)}
        accepted = _constructor_arguments(family, settings)
        arguments = {name: config.pop(name) for name in list(config) if name in accepted}
        for name, value in config.items():
            setattr(settings, name, value)
        model, report = self._load(family, settings, arguments)
        if labels:
            _name_encoder(model)
        self.missing |= _missing_parameters(model, report, self.base)
        self.initialised |= {*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])}
        if pairs := known_labels(self.config, labels):
            original = deepcopy(settings)
            original.id2label, original.label2id = self.config.id2label, self.config.label2id
            donor, report = self._load(family, original, arguments)
            copy_known_outputs(model, donor, pairs, report["missing_keys"])
            _log.info("training begins with the base's own outputs for %s", ", ".join(labels[k] for k in pairs))
        found: nn.Module = model
        return found

    def processor(self, modality: str) -> Any:
        """Return the base's processor of that medium; BaseError when its files are missing."""
        return load_processor(self.base, modality)

    def _load(self, family: Any, settings: Any, arguments: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return a model with this configuration, and transformers' report about the parameters of its files."""
        what = f"{family.__name__} on {settings.model_type}"
        with MAKING_A_MODEL, quiet(), _as_base_error(self.base.reference, what):
            model, report = family.from_pretrained(
                self.base.path,
                config=settings,
                dtype=torch.float32,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **arguments,
                **_LOCAL_ONLY,
            )
        return model, report


def load_processor(base: Base, modality: str) -> Any:
    """Load the base's processor for a medium, such as its tokenizer; BaseError when its files are missing."""
    medium = medium_of(modality)
    # timm writes the processor's settings into the configuration itself.
    if not (medium.in_timm and require_timm(base.path, base.reference)) and not medium.found_in(base.path):
        # transformers makes up an empty tokenizer out of the configuration's family alone.
        wanted = ", ".join(medium.files)
        raise BaseError(f"the files of {medium.noun} are missing: one of {wanted}", where=base.reference)
    with quiet(), _as_base_error(base.reference, f"the {modality} processor"):
        processor = getattr(transformers, medium.auto)
        return processor.from_pretrained(base.path, **medium.options, **_LOCAL_ONLY)


def random_model(folder: Path, reference: str, seed: int) -> PreTrainedModel:
    """Return the model of a folder's configuration with weights that are initialised from a seed, in fp32.

    Torch's global generator is left as it was. `reference` names the base in messages.
    """
    with MAKING_A_MODEL, _as_base_error(reference, "the configuration"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = transformers.AutoConfig.from_pretrained(folder, **_LOCAL_ONLY)
        named = str((getattr(config, "architectures", None) or [""])[0])
        family = getattr(transformers, named, None) if named.isidentifier() else None
        if not isinstance(family, type) or not issubclass(family, PreTrainedModel):
            model: PreTrainedModel = transformers.AutoModel.from_config(config)
        else:
            model = family(config)
    return model.float()


def surplus_note(processor: Any, config: Any) -> str | None:
    """Return a sentence about tokens of a tokenizer that the base's embedding table lacks, or None.

    A table that is larger than the tokenizer is normal. Special tokens (a mask) are never made of a text.
    """
    size, added = table_size(config), getattr(processor, "added_tokens_decoder", None)
    if size is None or added is None:
        return None
    count = max(len(processor), *(number + 1 for number in added), 0)
    if count <= size:
        return None
    lacking = [number for number in range(size, count) if not (number in added and added[number].special)]
    if not lacking:
        return None
    names = processor.convert_ids_to_tokens(lacking[:SHOWN_TOKENS])
    more = f" and {len(lacking) - SHOWN_TOKENS:,} more" if len(lacking) > SHOWN_TOKENS else ""
    return (
        f"the tokenizer has {count:,} tokens, the embedding table {size:,} rows: no text with the tokens "
        f"{', '.join(map(repr, names))}{more} can be used. Call model.resize_token_embeddings({count}) and save the "
        "base again, or remove the added tokens from its tokenizer"
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' load reports and progress bars off the screen, unless regraft logs at DEBUG."""
    if logging.getLogger("regraft").isEnabledFor(logging.DEBUG):
        yield
        return
    levels = transformers.utils.logging
    before, bars = levels.get_verbosity(), levels.is_progress_bar_enabled()
    levels.set_verbosity_error()
    levels.disable_progress_bar()
    try:
        yield
    finally:
        levels.set_verbosity(before)
        if bars:
            levels.enable_progress_bar()


@contextmanager
def _as_base_error(reference: str, what: str) -> Iterator[None]:
    """Raise transformers' errors (an unknown family, a task that the family does not have) as BaseError."""
    try:
        yield
    except (RegraftError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        message = " ".join(str(error).split())[:400]
        raise BaseError(f"{what} cannot be loaded: {message}", where=reference) from error


def _name_encoder(model: Any) -> None:
    """Name the base inside a classifier whose class names another part: Whisper's holds the encoder alone."""
    parts = dict(model.named_children())
    if model.base_model_prefix not in parts and {"encoder", "classifier"} <= set(parts) and "decoder" not in parts:
        model.base_model_prefix = "encoder"


def _constructor_arguments(family: Any, config: Any) -> set[str]:
    """Return the arguments of the model's constructor besides the configuration (`add_pooling_layer`)."""
    model = family._model_mapping.get(type(config), None)
    model = model[0] if isinstance(model, tuple | list) else model
    return set(inspect.signature(model.__init__).parameters) - {"self", "config"} if model else set()


def _missing_parameters(model: Any, report: Mapping[str, Any], base: Base) -> frozenset[str]:
    """Return the names in the bare base of parameters that its files lack.

    Raises BaseError when they are more than a pooler and the task's head.
    """
    prefix = model.base_model_prefix
    inside = f"{prefix}." if prefix and hasattr(model, prefix) else ""
    mismatched = {entry[0] for entry in report["mismatched_keys"]}
    absent = {*report["missing_keys"], *mismatched}
    missing = {name.removeprefix(inside) for name in absent if name.startswith(inside)}
    rule = RULES.get(model.config.model_type)
    head = rule.head if rule else (classifier_names(getattr(model, prefix)) if inside else ())
    if vital := sorted(name for name in missing if "pooler" not in name.split(".") and not under(name, head)):
        raise BaseError(
            f"the weights lack {vital[0]} ({len(vital)} in all), or hold it in another shape: these files are not of "
            f"the {base.found_at.name}/config.json beside them",
            where=base.reference,
        )
    return frozenset(missing)


def _configure_dropout(config: Any, dropout: float | None, *, warn: bool) -> None:
    """Set every dropout probability to `dropout`; without one, replace the defaults with which a head cannot learn."""
    if dropout is not None:
        for name, value in config.to_dict().items():
            number = isinstance(value, float | int) and not isinstance(value, bool)
            if ("dropout" in name or name.endswith("pdrop")) and (number or value is None):
                setattr(config, name, dropout)
    elif config.model_type in BROKEN_DROPOUT and config.classifier_dropout_prob >= BROKEN_DROPOUT[config.model_type]:
        _log.log(
            logging.WARNING if warn else logging.DEBUG,
            "The base's configuration drops %g of the classifier's inputs, a default of transformers with which it "
            "cannot learn; using %g. Write training.dropout to choose it.",
            config.classifier_dropout_prob,
            USUAL_DROPOUT,
        )
        config.classifier_dropout_prob = USUAL_DROPOUT
