"""The code at the top of an exported folder's README: it runs in that folder as it stands."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel
from transformers.pipelines import PIPELINE_REGISTRY

from regraft.bases.adapted import Adapted
from regraft.contracts import columns_of, medium_of
from regraft.serving.row_checks import prediction_columns
from regraft.tasks.inputs.pooled_encoder import PooledPictures
from regraft.tasks.inputs.text import TextRow
from regraft.units import with_article

HEAD, HEAD_LABELS = "head.safetensors", "head.json"
SENTENCE_NOTE = (
    "a sentence-transformers encoder with mean pooling, because transformers' own classifiers read the first token: "
    "load it by sentence_transformers.SentenceTransformer; its embeddings times head.safetensors (weight, bias) are "
    "the logits of the labels in head.json. transformers' pipeline refuses the folder"
)
EMBEDDING_NOTE = (
    "a sentence-transformers encoder: load it by sentence_transformers.SentenceTransformer, or its base alone by "
    "transformers.AutoModel.from_pretrained"
)
_FOLDER = 'folder = "."  # this folder; from elsewhere its path'
_READ = {
    "multi_label_classification": "answers = [dict(zip(labels, row)) for row in logits.sigmoid().tolist()]",
    "regression": "answers = [dict(zip(labels, row)) for row in logits.tolist()]",
}
_PIPELINE = f"""```python
from transformers import pipeline

{_FOLDER}
model = pipeline("NAME", folderARGUMENTS)
print(model(EXAMPLE))
```
"""
_VALUE_PIPELINE = f"""```python
IMPORTS
from transformers import pipeline

{_FOLDER}
model = pipeline("NAME", folderARGUMENTS)
MAKES
print(model(VALUE))
```
"""
_SEQUENCES = f"""```python
from transformers import AUTO, PROCESSOR

{_FOLDER}
tokenizer = PROCESSOR.from_pretrained(folder)
model = AUTO.from_pretrained(folder)
inputs = tokenizer([EXAMPLE], truncation=True, return_tensors="pt")
print(tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True))
```
"""
_LOADED = f"""```python
from transformers import AUTO, PROCESSOR

{_FOLDER}
processor = PROCESSOR.from_pretrained(folder)
model = AUTO.from_pretrained(folder)
```
"""
_SENTENCES = f"""The encoder pools by the mean over tokens, and the head is one linear layer beside it.
transformers has no class for such a classifier: its `pipeline` refuses this folder.

```python
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

{_FOLDER}
encoder = SentenceTransformer(folder)
head = load_file(f"{{folder}}/{HEAD}")
labels = json.loads(Path(folder, "{HEAD_LABELS}").read_text(encoding="utf-8"))["labels"]
texts = [EXAMPLE]
embeddings = encoder.encode(texts, convert_to_tensor=True).cpu()
logits = torch.nn.functional.linear(embeddings, head["weight"], head["bias"])
ANSWERS
print(answers)
```
"""


_EMBEDDINGS = f"""```python
from sentence_transformers import SentenceTransformer

{_FOLDER}
model = SentenceTransformer(folder)
vectors = model.encode(EXAMPLES)
print(model.similarity(vectors, vectors))  # cosines; vectors have the length 1
```
CUT"""


PICTURE_VECTOR_NOTE = (
    "a base without a head: load it by transformers.AutoModel.from_pretrained; the README pools its states to a vector"
)
_POSITIONS = {"cls": "states[:, 0]", "token": "states[:, 0]", "mean": "states.mean(1)"}
_PICTURE_VECTOR = """import torch
from PIL import Image

picture = Image.new("RGB", (640, 480))  # for example; yours is Image.open(path)
with torch.inference_mode():
    states = model(**processor(picture, return_tensors="pt")).last_hidden_state
vector = torch.nn.functional.normalize(POOLED, dim=-1)
print(vector.shape)
```
"""


def transformers_usage(adapted: Adapted, model: PreTrainedModel) -> tuple[str, str]:
    """Return the code that uses a transformers folder, and a note for the command line."""
    auto, name = adapted.task.auto, adapted.task.api_form().name
    note = f"{with_article(type(model).__name__)}: load it by transformers.{auto}.from_pretrained"
    processor = medium_of(adapted.task.modality).auto
    if adapted.task.export_code or name not in PIPELINE_REGISTRY.get_supported_tasks():
        if adapted.task.export_code:
            code = _LOADED.replace("AUTO", auto).replace("PROCESSOR", processor).removesuffix("```\n")
            return f"{code}{adapted.task.export_code.replace('EXAMPLES', repr(tuple(_examples(adapted))))}```\n", note
        template = _SEQUENCES if model.can_generate() else _LOADED
        code = template.replace("AUTO", auto).replace("PROCESSOR", processor)
        return code.replace("EXAMPLE", repr(f"{getattr(adapted.task, 'prefix', '')}{_examples(adapted)[0]}")), note
    template, value = _PIPELINE, medium_of(adapted.task.modality).pipeline_value
    if value is not None:
        template = _VALUE_PIPELINE.replace("IMPORTS", value.imports).replace("MAKES", value.makes)
        template = template.replace("VALUE", value.name)
    arguments = ", truncation=True" if isinstance(adapted.task, TextRow) else ""
    code = template.replace("NAME", name).replace("ARGUMENTS", arguments)
    return code.replace("EXAMPLE", _input(adapted)), f"{note}, or by transformers.pipeline({name!r}, FOLDER)"


def sentence_usage(adapted: Adapted, problem: str | None) -> str:
    """Return the code that uses a sentence-transformers folder, by the texts of a row and the meaning of the logits."""
    examples = _examples(adapted)
    example = repr(examples[0]) if len(examples) == 1 else repr(tuple(examples))
    read = _READ.get(problem or "", "answers = [labels[i] for i in logits.argmax(-1)]")
    return _SENTENCES.replace("EXAMPLE", example).replace("ANSWERS", read)


def embedding_usage(adapted: Adapted) -> str:
    """Return the code that uses a folder of an encoder without a head."""
    column = next(iter(columns_of(prediction_columns(adapted.task)).values()))
    examples = [column.example(0), column.example(1)]
    sizes = [str(size) for size in getattr(adapted.task, "sizes", ())]
    cut = ""
    if sizes:
        how = f"`SentenceTransformer(folder, truncate_dim={sizes[0]})`"
        cut = f"\nFor shorter vectors write {how}; the sizes that were trained: {', '.join(sizes)}.\n"
    return _EMBEDDINGS.replace("EXAMPLES", repr(examples)).replace("CUT", cut)


def picture_vector_usage(adapted: Adapted, model: PooledPictures) -> str:
    """Return the code that computes the vector of a picture from the exported base, pooled as `model` does."""
    places = (1, 2) if model.channels_last else (2, 3)
    pooled = f"states.mean({places}) if states.ndim == 4 else {_POSITIONS[model.pooling]}"
    code = _LOADED.replace("AUTO", adapted.task.auto).replace("PROCESSOR", medium_of(adapted.task.modality).auto)
    return code.removesuffix("```\n") + _PICTURE_VECTOR.replace("POOLED", pooled)


def _input(adapted: Adapted) -> str:
    """Return the input of a pipeline for texts, as code; pairs are written as the pipeline expects them."""
    examples = _examples(adapted)
    if len(examples) > 1:
        return repr(dict(zip(("text", "text_pair"), examples, strict=False)))
    return repr(examples[0])


def _examples(adapted: Adapted) -> list[Any]:
    """Return an example value of each column that a row to predict needs."""
    columns = columns_of(prediction_columns(adapted.task)).values()
    values = [column.example(place) for place, column in enumerate(columns)]
    task, context = adapted.task, adapted.context
    return [task.example_text(value, context) if isinstance(value, str) else value for value in values]
