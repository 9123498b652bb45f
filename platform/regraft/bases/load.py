"""From a base's folder to a model or a processor, without code, pickles or noise on the screen."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from importlib.util import find_spec
from typing import Any

import torch
import transformers
from torch import nn

from regraft.bases.families import RULES
from regraft.bases.label_transfer import keep_known, known
from regraft.bases.locate import Base, processor_files
from regraft.contracts import medium_of, under
from regraft.errors import BaseError, Unsupported

__all__ = ["BaseLoader", "load_processor", "processor_files", "quiet"]

_log = logging.getLogger(__name__)

ABSURD = {"mobilenet_v1": 0.999, "mobilenet_v2": 0.8}
"""Defaults of transformers for classifier_dropout_prob with which a head cannot learn."""
SANE = 0.2
_SAFE = {"trust_remote_code": False, "local_files_only": True}


class BaseLoader:
    """Makes models of one base's weights, in fp32; `contracts.Loader`."""

    config: Any
    pooling: str | None

    def __init__(self, base: Base, dropout: float | None = None) -> None:
        self.base = base
        self.pooling = _pooling(base)
        self.missing: frozenset[str] = frozenset()
        """Parameters of the base that its files lack (such as a pooler), by their names in the bare base."""
        self.drawn: frozenset[str] = frozenset()
        """Everything that the files lack, by its names in the models that were made."""
        of_timm(base)
        with quiet(), _named(base, "config.json"):
            self.config = transformers.AutoConfig.from_pretrained(base.path, **_SAFE)
        _set_dropout(self.config, dropout)

    def __call__(self, auto: str, *, labels: Sequence[str] = (), **config: Any) -> nn.Module:
        """The base in the Auto class `auto`; keywords are fields of the configuration or the model's own arguments.

        What the base lacks is drawn from torch's global generator; BaseError when that is more than head and pooler.
        Of labels that the base's own head has by name, the outputs are kept.
        """
        family = getattr(transformers, auto)
        settings = deepcopy(self.config)
        if labels:
            settings.id2label = dict(enumerate(labels))
            settings.label2id = {label: number for number, label in enumerate(labels)}
        taken = _arguments(family, settings)
        arguments = {name: config.pop(name) for name in list(config) if name in taken}
        for name, value in config.items():
            setattr(settings, name, value)
        model, told = self._loaded(family, settings, arguments)
        self.missing |= _lacking(model, told, self.base)
        self.drawn |= {*told["missing_keys"], *(entry[0] for entry in told["mismatched_keys"])}
        if pairs := known(self.config, labels):
            own = deepcopy(settings)
            own.id2label, own.label2id = self.config.id2label, self.config.label2id
            donor, told = self._loaded(family, own, arguments)
            keep_known(model, donor, pairs, told["missing_keys"])
            _log.info("training begins with the base's own outputs for %s", ", ".join(labels[k] for k in pairs))
        found: nn.Module = model
        return found

    def _loaded(self, family: Any, settings: Any, arguments: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """A model of that configuration, and what transformers tells of its loading."""
        with quiet(), _named(self.base, f"{family.__name__} on {settings.model_type}"):
            model, told = family.from_pretrained(
                self.base.path,
                config=settings,
                dtype=torch.float32,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **arguments,
                **_SAFE,
            )
        return model, told


def load_processor(base: Base, modality: str) -> Any:
    """Load the base's processor for a medium, such as its tokenizer. BaseError without files."""
    medium = medium_of(modality)
    # timm writes the processor's settings into the configuration itself.
    if not (medium.in_timm and of_timm(base)) and not any(
        True for pattern in medium.files for _ in base.path.glob(pattern)
    ):
        # transformers makes up an empty tokenizer out of the configuration's family alone.
        wanted = ", ".join(medium.files)
        raise BaseError(f"the files of {medium.noun} are missing: one of {wanted}", where=base.reference)
    with quiet(), _named(base, f"the {modality} processor"):
        processor = getattr(transformers, medium.auto)
        return processor.from_pretrained(base.path, **medium.options, **_SAFE)


def of_timm(base: Base) -> bool:
    """Whether the base is one of the timm library's (VGG, Inception, EfficientNet, ...), which transformers wraps;
    Unsupported says what that needs."""
    try:
        told = json.loads((base.path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # said in words where the configuration is read
    if not isinstance(told, dict) or not (told.get("model_type") == "timm_wrapper" or "pretrained_cfg" in told):
        return False
    missing = [name for name in ("timm", "torchvision") if find_spec(name) is None]
    if missing:
        raise Unsupported(
            f"{base.reference} is a base of timm's, which needs {' and '.join(missing)}: pip install 'regraft[timm]'",
            where="base",
        )
    return True


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
def _named(base: Base, what: str) -> Iterator[None]:
    """transformers' own refusals (an unknown family, a task the family has not) as BaseError."""
    try:
        yield
    except (ValueError, OSError, KeyError, TypeError, ImportError, RuntimeError) as error:
        told = " ".join(str(error).split())[:400]
        raise BaseError(f"{what} cannot be loaded: {told}", where=base.reference) from error


def _arguments(family: Any, config: Any) -> set[str]:
    """What the model's own constructor takes besides the configuration (`add_pooling_layer`)."""
    model = family._model_mapping.get(type(config), None)
    model = model[0] if isinstance(model, tuple | list) else model
    return set(inspect.signature(model.__init__).parameters) - {"self", "config"} if model else set()


def _lacking(model: Any, told: dict[str, Any], base: Base) -> frozenset[str]:
    """Names in the bare base of what its files lack; BaseError when that is more than a pooler or the task's head."""
    prefix = model.base_model_prefix
    inside = f"{prefix}." if prefix and hasattr(model, prefix) else ""
    mismatched = {entry[0] for entry in told["mismatched_keys"]}
    lacking = {name.removeprefix(inside) for name in {*told["missing_keys"], *mismatched} if name.startswith(inside)}
    rule = RULES.get(model.config.model_type)
    head = rule.head if rule else ()
    if vital := sorted(name for name in lacking if "pooler" not in name.split(".") and not under(name, head)):
        raise BaseError(
            f"the weights lack {vital[0]} ({len(vital)} in all), or hold it in another shape: these files are not of "
            f"the {base.path.name}/config.json beside them",
            where=base.reference,
        )
    return frozenset(lacking)


def _pooling(base: Base) -> str | None:
    path = base.path / "1_Pooling" / "config.json"
    if not path.is_file():
        return None
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BaseError(f"1_Pooling/config.json cannot be read as JSON: {error}", where=base.reference) from None
    for name, key in (("mean", "pooling_mode_mean_tokens"), ("cls", "pooling_mode_cls_token")):
        if told.get(key) or told.get("pooling_mode") == name:
            return name
    return None


def _set_dropout(config: Any, dropout: float | None) -> None:
    """Write `dropout` over every dropout probability; without one, mend the defaults with which nothing learns."""
    if dropout is not None:
        for name, value in config.to_dict().items():
            number = isinstance(value, float | int) and not isinstance(value, bool)
            if ("dropout" in name or name.endswith("pdrop")) and (number or value is None):
                setattr(config, name, dropout)
    elif config.model_type in ABSURD and config.classifier_dropout_prob >= ABSURD[config.model_type]:
        _log.warning(
            "The base's configuration drops %g of the classifier's inputs, a default of transformers with which it "
            "cannot learn; using %g. Write training.dropout to choose it.",
            config.classifier_dropout_prob,
            SANE,
        )
        config.classifier_dropout_prob = SANE
