"""Vectors of embeddings are what the base's files and the shape of its states say, or are refused in words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.locate import locate
from regraft.contracts import Task
from regraft.errors import Unsupported
from regraft.methods.full import Full
from regraft.serving.export_usage import picture_vector_usage
from regraft.tasks.image_embeddings import ImageEmbeddings
from regraft.tasks.inputs.pooled_encoder import PicturePooling, PooledPictures
from support.tiny import tiny_bert

PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Wrapped(nn.Module):
    """What transformers makes of a network of timm, as far as pooling looks at it."""

    def __init__(self, states: Tensor, **network: Any) -> None:
        super().__init__()
        self.config, self.states, self.timm_model = SimpleNamespace(), states, nn.Identity()
        for name, value in network.items():
            setattr(self.timm_model, name, value)

    def forward(self, pixel_values: Tensor) -> Any:
        return SimpleNamespace(last_hidden_state=self.states[: len(pixel_values)])


class OfConfig:
    """A loader without files: a model of random weights."""

    pooling: str | None = None
    pooling_problem = ""

    def __init__(self, config: Any) -> None:
        self.config = config

    def processor(self, modality: str) -> Any:
        raise AssertionError("no processor is asked for")

    def __call__(self, auto: str, *, labels: Sequence[str] = (), **config: Any) -> nn.Module:
        model: nn.Module = getattr(transformers, auto).from_config(self.config, **config)
        return model.eval()


def cvt() -> Any:
    return transformers.CvtConfig(embed_dim=[4, 4, 8], num_heads=[1, 1, 1], depth=[1, 2, 3])


def clip_vision() -> Any:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    return transformers.CLIPVisionConfig(image_size=32, patch_size=16, **sizes)


def built(config: Any, pooling: str = "auto") -> Any:
    return ImageEmbeddings.model_validate({"pooling": pooling}).build(OfConfig(config), ())


def by_readme(model: PooledPictures, states: Tensor) -> Tensor:
    """Return the vector that the code in an exported folder makes of states."""
    adapted: Any = SimpleNamespace(task=ImageEmbeddings())
    (line,) = (one for one in picture_vector_usage(adapted, model).splitlines() if one.startswith("vector ="))
    made: dict[str, Any] = {"torch": torch, "states": states}
    exec(line, made)
    found: Tensor = made["vector"]
    return found


@pytest.mark.parametrize(("network", "places"), [({"output_fmt": "NHWC"}, (1, 2)), ({"output_fmt": "NCHW"}, (2, 3))])
def test_a_map_of_timm_is_averaged_over_its_places(network: dict[str, Any], places: tuple[int, int]) -> None:
    states = torch.randn(2, *((7, 6, 12) if places == (1, 2) else (12, 7, 6)))
    model = PooledPictures(Wrapped(states, num_features=12, **network), "mean")
    found = model(PIXELS).embeddings
    torch.testing.assert_close(found, F.normalize(states.mean(places), dim=-1))
    torch.testing.assert_close(by_readme(model, states), found)
    assert model.width == 12


def test_a_map_whose_channels_are_elsewhere_is_refused() -> None:
    with pytest.raises(Unsupported, match=r"shape \(7, 6, 12\), in which its 12 channels are not where"):
        PooledPictures(Wrapped(torch.randn(2, 7, 6, 12), num_features=12), "mean")(PIXELS)


def test_the_usual_vector_of_a_base_that_ends_in_a_map_is_its_mean() -> None:
    """CvT has a class token inside its last stage, and returns a map."""
    model = built(cvt())
    with torch.no_grad():
        states, found = model.base(PIXELS).last_hidden_state, model(PIXELS).embeddings
    assert states.ndim == 4
    torch.testing.assert_close(found, F.normalize(states.mean((2, 3)), dim=-1))
    torch.testing.assert_close(by_readme(model, states), found)
    with pytest.raises(Unsupported, match="this base ends in a map, which has no class token: write pooling: mean"):
        built(cvt(), "cls")(PIXELS)


def test_the_class_token_of_clip_is_known() -> None:
    model = built(clip_vision())
    with torch.no_grad():
        states, found = model.base(PIXELS).last_hidden_state, model(PIXELS).embeddings
    torch.testing.assert_close(found, F.normalize(states[:, 0], dim=-1))
    torch.testing.assert_close(by_readme(model, states), found)


@pytest.mark.parametrize("pooling", ["cls", "token", "mean"])
def test_an_exported_folder_pools_positions_as_the_model(pooling: PicturePooling) -> None:
    states = torch.randn(2, 5, 12)
    model = PooledPictures(Wrapped(states, num_features=12), pooling)
    torch.testing.assert_close(by_readme(model, states), model(PIXELS).embeddings)


def module(kind: str) -> dict[str, str]:
    return {"type": f"sentence_transformers.models.{kind}"}


OTHERWISE: dict[str, tuple[str, Any, str]] = {
    "last token": ("1_Pooling/config.json", {"pooling_mode_lasttoken": True}, "pools by lasttoken"),
    "newer files": ("1_Pooling/config.json", {"pooling_mode": "max"}, "pools by max"),
    "two modes": (
        "1_Pooling/config.json",
        {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True},
        "pools by mean_tokens and max_tokens",
    ),
    "two modes in a list": ("1_Pooling/config.json", {"pooling_mode": ["cls", "mean"]}, "pools by cls and mean"),
    "a layer": (
        "modules.json",
        [module("Transformer"), module("Pooling"), module("Dense")],
        "passes vectors through Dense",
    ),
    "a prompt": (
        "config_sentence_transformers.json",
        {"prompts": {"query": "find: "}, "default_prompt_name": "query"},
        "puts 'find: ' before every text",
    ),
}
AS_USUAL: dict[str, tuple[str, Any]] = {
    "the length 1": ("modules.json", [module("Transformer"), module("Pooling"), module("Normalize")]),
    "prompts to be named": (
        "config_sentence_transformers.json",
        {"prompts": {"query": "find: "}, "default_prompt_name": None},
    ),
}


def pooling_of(folder: Path, name: str, content: Any, written: str) -> str:
    """Return the pooling that is used of a base with that file."""
    (tiny_bert(folder) / name).write_text(json.dumps(content))
    task: Any = Task.parse({"type": "embeddings", "pooling": written})
    made: Any = adapt(locate(str(folder)), Adaptation(task=task, method=Full(), labels=(), seed=1)).model
    return str(made.pooling)


@pytest.mark.parametrize("case", OTHERWISE)
def test_a_base_that_makes_its_vectors_otherwise_is_refused_until_a_pooling_is_written(
    case: str, tmp_path: Path
) -> None:
    name, content, message = OTHERWISE[case]
    with pytest.raises(Unsupported, match=f"{name} {message}. Write pooling: mean") as error:
        pooling_of(tmp_path / "base", name, content, "auto")
    assert error.value.where == "task.pooling"
    assert pooling_of(tmp_path / "base", name, content, "mean") == "mean"


@pytest.mark.parametrize("case", AS_USUAL)
def test_files_that_change_no_vector_are_accepted(case: str, tmp_path: Path) -> None:
    assert pooling_of(tmp_path / "base", *AS_USUAL[case], "auto") == "mean"
