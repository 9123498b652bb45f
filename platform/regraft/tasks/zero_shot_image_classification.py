"""Image classification by texts: labels are prompts, and a head for few rows starts from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import ClassVar, Self

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from regraft.contracts import ApiForm, Context, Kind, Loader, Record, candidates_form, device_of
from regraft.errors import Unsupported
from regraft.tasks.inputs.image import ImageRow
from regraft.tasks.outputs.single_label import SingleLabel
from regraft.tasks.outputs.text_prototypes import PLACE, ImageTextClassifier, pairwise_sigmoid

EXPORTED = """
import json
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file

head = load_file(f"{folder}/head.safetensors")
labels = json.loads(Path(folder, "head.json").read_text(encoding="utf-8"))["labels"]
picture = Image.new("RGB", (640, 480))  # for example; yours is Image.open(path)
with torch.no_grad():
    vector = model.get_image_features(**processor(images=picture, return_tensors="pt")).pooler_output
logits = torch.nn.functional.linear(vector / vector.norm(dim=-1, keepdim=True), head["weight"], head["bias"])[0]
scores = logits.sigmoid() if "siglip" in model.config.model_type else logits.softmax(-1)
print(dict(zip(labels, scores.tolist())))
"""


class ZeroShotImageClassification(SingleLabel, ImageRow):
    """One label for each image, on a base that reads images and texts (CLIP, SigLIP).

    Each label becomes prompts, and their vectors are the first weights of the head. So a run begins with the base's
    zero-shot answers, from which a few rows a class lead on; `method: {type: prototypes, of: prompts}` keeps them as
    they are. CLIP's labels share a softmax, and SigLIP judges each label by a sigmoid, in loss and answers.
    """

    synonyms: ClassVar[frozenset[str]] = frozenset(
        {"zero-shot-classification", "clip", "clip-classification", "image-text-classification", "few-shot"}
    )
    auto: ClassVar[str] = "AutoModelForZeroShotImageClassification"
    columns: ClassVar[Mapping[str, Kind]] = {"image": "image", "label": "label"}
    supports: ClassVar[frozenset[str]] = frozenset(
        {"class_weights", "label_smoothing", "baselines", "prototypes", "features", "classes", "augment", "prompts"}
    )
    answer_fields: ClassVar[frozenset[str]] = frozenset({"k", "templates", "texts"})
    proposed: ClassVar[bool] = False
    export_code: ClassVar[str] = EXPORTED

    templates: tuple[str, ...] = Field(("This is a photo of {}.",), min_length=1)
    """Prompts for each label, with {} where its text goes; the vectors of several are averaged."""
    texts: dict[str, str] | None = None
    """Text of a label in the prompts, such as {n02099601: golden retriever}; null, and for labels that are not
    listed: the label itself."""
    k: int = Field(5, ge=1)
    """Labels among which recall_at_k looks for the true one."""

    @field_validator("templates")
    @classmethod
    def _templates_have_a_place(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if PLACE not in template:
                raise ValueError(
                    f"{template!r} is written, which has no place for the label: write {PLACE} where its text goes, as "
                    f"in 'a photo of a {PLACE}.'"
                )
        return templates

    @model_validator(mode="after")
    def _texts_are_words(self) -> Self:
        if empty := [label for label, text in (self.texts or {}).items() if not text.strip()]:
            raise ValueError(f"texts gives {empty[0]!r} no text: write the words for it in a prompt")
        return self

    def build(self, load: Loader, labels: Sequence[str]) -> nn.Module:
        """Return the base's image tower with a head whose weights are the vectors of the labels' prompts.

        Raises Unsupported for a base without two towers, and for the text of a label that is misspelt: one that the
        rows do not have, and much like one of theirs that has no text. Texts may name more labels than there are.
        """
        without = [label for label in labels if label not in (self.texts or {})]
        unknown = [label for label in self.texts or {} if label not in labels and get_close_matches(label, without)]
        if unknown:
            raise Unsupported(
                f"texts names {unknown[0]!r}, and the labels of the rows are {', '.join(labels)}: write one of these",
                where="task.texts",
            )
        model = ImageTextClassifier(load(self.auto), len(labels))
        if device_of(model).type != "meta":  # a model that is only counted has no numbers to start from
            model.begin_with([self.prompts(label) for label in labels], load.processor("text"))
        return model

    def prompts(self, label: str) -> list[str]:
        """Return the prompts of a label."""
        text = (self.texts or {}).get(label, label)
        return [template.replace(PLACE, text) for template in self.templates]

    def probabilities(self, logits: Tensor, context: Context) -> Tensor:
        """Return the probability of each label, (rows, labels)."""
        return logits.sigmoid() if pairwise_sigmoid(context.config) else super().probabilities(logits, context)

    def row_losses(self, logits: Tensor, labels: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Return each row's loss and weight, both (rows,): by a sigmoid, the sum of the losses of its labels."""
        if not pairwise_sigmoid(context.config):
            return super().row_losses(logits, labels, context)
        smoothing, classes = context.label_smoothing, logits.shape[1]
        hot = F.one_hot(labels, classes).float() * (1 - smoothing) + smoothing / classes
        losses = F.binary_cross_entropy_with_logits(logits.float(), hot, reduction="none").sum(1)
        weights = torch.ones_like(losses) if context.class_weights is None else context.class_weights.to(losses)[labels]
        return losses * weights, weights

    def metrics(self, records: Sequence[Record], context: Context) -> dict[str, float]:
        """Return those of a classifier and recall_at_k, the share of rows whose label is among the k likeliest."""
        index = context.index
        ranks = [int((one["probabilities"] > one["probabilities"][index[one["label"]]]).sum()) for one in records]
        return {**super().metrics(records, context), f"recall_at_{self.k}": float(np.mean(np.array(ranks) < self.k))}

    def api_form(self) -> ApiForm:
        """Return the form of scores for candidate labels."""
        return candidates_form(self.templates)

    def exported(self, model: nn.Module) -> tuple[nn.Module, nn.Linear | None]:
        """Return the base with both towers, and the head that lies beside it."""
        assert isinstance(model, ImageTextClassifier)
        return model.base, model.classifier
