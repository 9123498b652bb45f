"""Tiny bases of every family with a processor of their own, and rows for every task, made from the kinds of its
columns alone: a task or a family that joins is tested without a line here."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from regraft.bases.locate import Base, locate
from regraft.contracts import MadeUp, Row, Task, column_of, columns_of, medium_of
from regraft.spec.closed_form import fitting_methods
from unit.bases.families import FAMILIES, save

LABELS = ("no", "yes", "perhaps")
WORDS = [f"w{number}" for number in range(4, 29)]
TEXTS = ("w5 w6 w7 w8", "w9 w4", "w20 w21 w4 w5 w6")
SMALL = dict.fromkeys(("clip", "vit", "deit", "dinov2", "dpt", "swin"), (16, 16))
SIDES = {**SMALL, "yolos": (16, 24), "rt_detr": (64, 64)}
TRIED: dict[str, tuple[str, ...]] = {
    "AutoModel": ("bert", "vit"),
    "AutoModelForSequenceClassification": ("bert", "bert-pooled", "roberta", "mpnet", "distilbert"),
    "AutoModelForTokenClassification": ("bert",),
    "AutoModelForCausalLM": ("llama",),
    "AutoModelForMaskedLM": ("bert",),
    "AutoModelForQuestionAnswering": ("bert",),
    "AutoModelForSeq2SeqLM": ("bart", "t5"),
    "AutoModelForAudioClassification": ("wav2vec2",),
    "AutoModelForImageClassification": ("mobilenet_v2", "resnet", "vit"),
    "AutoModelForObjectDetection": ("yolos",),
    "AutoModelForSemanticSegmentation": ("segformer",),
    "AutoModelForDepthEstimation": ("dpt",),
    "AutoModelForZeroShotImageClassification": ("clip",),
}
"""Families that tasks of an Auto class are tried on in every run of the tests, one each in turn."""
REFUSED_FAMILIES = {
    "AutoModel": {"clip"},
    "AutoModelForImageClassification": {"clip"},
    "AutoModelForQuestionAnswering": {"t5"},
}
"""Families whose model of an Auto class keeps no base apart, or is two: the task refuses them."""
NOTHING_NEW = frozenset({"AutoModel", "AutoModelForCausalLM", "AutoModelForSeq2SeqLM"})
"""Auto classes whose models are the base itself: a task of theirs has no head to train alone."""
PROCESSORS = {
    "yolos": "YolosImageProcessor",
    "detr": "DetrImageProcessor",
    "dpt": "DPTImageProcessor",
    "rt_detr": "RTDetrImageProcessor",
    "segformer": "SegformerImageProcessor",
}


def base_of(family: str, folder: Path) -> Base:
    """Return the family's tiny base with the tokenizer or the image processor that its tasks need."""
    save(family, folder)
    config = json.loads((folder / "config.json").read_text())
    if medium_of(FAMILIES[family].task.modality).tokens:
        tokenizer(config).save_pretrained(folder)
    elif FAMILIES[family].task.modality == "audio":
        (folder / "preprocessor_config.json").write_text(json.dumps(feature_extractor(config)))
    else:
        if "text_config" in config:
            tokenizer(config["text_config"]).save_pretrained(folder)
        height, width = SIDES.get(family, (33, 32))
        document = {
            "image_processor_type": PROCESSORS.get(family, "ViTImageProcessor"),
            "do_resize": True,
            "size": {"height": height, "width": width},
            "do_normalize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        }
        (folder / "preprocessor_config.json").write_text(json.dumps(document))
    return locate(str(folder))


def feature_extractor(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a feature extractor for raw sound, or for spectrograms of the config's size."""
    raw = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 8000, "feature_size": 1}
    spectrum = {"feature_extractor_type": "ASTFeatureExtractor", "sampling_rate": 16000}
    sizes = {name: config[name] for name in ("max_length", "num_mel_bins") if name in config}
    return {**spectrum, **sizes} if "num_mel_bins" in sizes else raw


def tokenizer(config: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    """Return a tokenizer of numbered words with the config's padding token, unknown, begin and end tokens."""
    pad = int(config.get("pad_token_id") or 0)
    mask = 1 if pad != 1 else 0
    names = {mask: "<mask>", pad: "<pad>", 3: "<unk>", 2: "<s>", 29: "</s>"}
    vocabulary = {names.get(number, f"w{number}"): number for number in range(30)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [("<s>", 2), ("</s>", 29)]
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=ends
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=14,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
    )


def task_of(key: str) -> Task:
    """Return the task with its defaults, except for lengths that fit the tiny bases and short generations."""
    fields = Task.lookup(key).model_fields
    short = {"max_length": 12, "block_size": 12, "max_new_tokens": 4, "max_source_length": 12, "max_target_length": 8}
    chosen: dict[str, Any] = {"type": key, **{name: value for name, value in short.items() if name in fields}}
    if "texts" in fields:
        chosen["texts"] = dict(zip((*column_of("label").made_up_labels(), "a", "b"), WORDS, strict=False))
    if "labels" in fields:
        chosen["labels"] = list(LABELS)
    found = Task.parse(chosen)
    assert isinstance(found, Task)
    return found


def method_of(key: str) -> str:
    """Return a method that goes with the task: full, or one that fits it where it takes no steps."""
    return "full" if Task.lookup(key).takes_steps else fitting_methods(task_of(key))[-1]


def labels_of(task: Task) -> tuple[str, ...]:
    """Return the labels that a snapshot of these rows has."""
    fixed = task.classes()
    columns = columns_of(task.input_columns()).values()
    return fixed if fixed is not None else next((each.made_up_labels() for each in columns if each.classes), ())


def rows_of(task: Task) -> list[Row]:
    """Three rows with every column that the task reads; columns of one kind differ."""
    columns = columns_of(task.input_columns())
    kinds = list(columns.values())
    return [
        {
            "row": number,
            **{
                name: column.made_up(_shared(number + kinds[:place].count(column), number))
                for place, (name, column) in enumerate(columns.items())
            },
        }
        for number in range(3)
    ]


def _shared(text: int, number: int) -> MadeUp:
    return MadeUp(number, tuple(TEXTS[text % 3].split()), size_of(number), train=True)


def size_of(number: int) -> tuple[int, int]:
    """Height and width of a row's picture: three sizes."""
    return 30 + 4 * number, 40 - 3 * number


@lru_cache
def picture(number: int) -> bytes:
    """Return images of three sizes, as the bytes of PNG files."""
    pixels = np.random.default_rng(number).integers(0, 255, (*size_of(number), 3), dtype=np.uint8)
    return _png(pixels)


def _png(pixels: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def keys_of(auto: str) -> list[str]:
    """The tasks of an Auto class, by the alphabet."""
    return [key for key in Task.names() if Task.lookup(key).auto == auto]


def family_of(key: str) -> str:
    """The family that a task is tried on in every run of the tests; the others are many, and slow for that alone."""
    auto, modality = Task.lookup(key).auto, Task.lookup(key).modality
    known = [family for family in TRIED.get(auto, ()) if FAMILIES[family].task.modality == modality]
    tried = known or [family for family in FAMILIES if fits(key, family, FAMILIES[family].make().config)]
    return tried[keys_of(auto).index(key) % len(tried)]


def fits(key: str, family: str, config: Any) -> bool:
    """Return whether transformers has the task's class for the family's configuration."""
    task = Task.lookup(key)
    if task.modality != FAMILIES[family].task.modality:
        return False
    if task.auto == "AutoModel" and getattr(config, "is_encoder_decoder", False):
        return False  # the class exists, and the model is not one encoder
    mapping = getattr(transformers, task.auto)._model_mapping
    return type(config) in mapping and family not in REFUSED_FAMILIES.get(task.auto, ())
