"""An exported detector: the base as transformers saves it, the detector's tensors, and code that uses both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from regraft.contracts.exported import ExportParts
from regraft.units import with_article

FILE = "detector.safetensors"
_USAGE = f"""transformers has no class for such a detector: its tensors are in `{FILE}`, beside the base.

```python
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, interpolate, normalize
from transformers import AutoImageProcessor, AutoModel

folder = "."  # this folder; from elsewhere its path
processor = AutoImageProcessor.from_pretrained(folder)
base = AutoModel.from_pretrained(folder).eval()
detector = load_file(f"{{folder}}/{FILE}")
picture = Image.new("RGB", (640, 480))  # for example; yours is Image.open(path).convert("RGB")
pixels = processor(picture, **OPTIONS, return_tensors="pt")["pixel_values"]
with torch.no_grad():
    output = base(pixel_values=pixels, output_hidden_states=True)
STATES
around = [avg_pool2d(state, 3, 1, 1, count_include_pad=False) for state in states]
states = [mean if min(mean.shape[2:]) > 2 else state for mean, state in zip(around, states)]
height, width = max(tuple(state.shape[2:]) for state in states)
patches = torch.cat([interpolate(state, (height, width), mode="bilinear") for state in states], 1)
DISTANCES
usual = detector["usual"][: int(detector["count"])]
print({{"score": float(score), "p_value": float((1 + (usual >= score).sum()) / (1 + len(usual)))}})
```
"""


def detector_parts(model: Any, options: Mapping[str, Any]) -> ExportParts | None:
    """Return the parts of a network with a fitted detector; None for another model.

    `options` are the arguments of the image processor.
    """
    code = getattr(getattr(model, "detector", None), "code", None)
    if code is None:
        return None
    usage = _USAGE.replace("OPTIONS", repr(dict(options))).replace("STATES", model.states_code())
    name = type(model.backbone).__name__
    return ExportParts(
        base=model.backbone,
        tensors=model.detector.state_dict(),
        file=FILE,
        usage=usage.replace("DISTANCES", code().strip()),
        note=f"{with_article(name)} with a detector in {FILE}: the README's code scores a picture",
    )
