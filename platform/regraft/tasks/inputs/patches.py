"""Patches of images: what some layers of a vision base say of each place, as vectors on one grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regraft.contracts.detection import Detection
from regraft.errors import Unsupported

STRIDES = (8, 16)
"""Pixels between places of the layers that are read by default: the middle ones of a network that narrows."""
_SIDES = (64, 224)


class PatchNetwork(nn.Module):
    """A base whose hidden states are joined into one vector for each place, and a detector that reads them."""

    base_model_prefix: ClassVar[str] = "backbone"

    def __init__(self, backbone: Any, layers: Sequence[int] | None) -> None:
        """`layers` are numbers of hidden states; None chooses them by their grids.

        Raises Unsupported for a base without hidden states on a grid, and for layers that it does not have.
        """
        super().__init__()
        self.backbone = backbone.eval()
        self.config = backbone.config
        with torch.no_grad():
            pixels = self._plain_picture()
            found, self._reshaped = hidden_states(backbone, pixels)
            self._tokens = found[-1].ndim == 3
            states = self.states(pixels)
        self.layers = tuple(layers) if layers is not None else default_layers(states, pixels.shape[-1])
        if wrong := [number for number in self.layers if number >= len(states)]:
            raise Unsupported(
                f"{wrong[0]} is written; this base has the hidden states 0 to {len(states) - 1}", where="task.layers"
            )
        self.patch_width = sum(states[number].shape[1] for number in self.layers)
        self.detector: nn.Module = Unfitted()

    def forward(self, pixel_values: Tensor) -> Detection:
        """Return what the detector says of images (rows, channels, height, width)."""
        found: Detection = self.detector(self.patches(pixel_values))
        return found

    def patches(self, pixel_values: Tensor) -> Tensor:
        """Return one vector for each place of the finest chosen layer, (rows, width, height, width)."""
        states = self.states(pixel_values)
        chosen = [neighbourhoods(states[number]) for number in self.layers]
        height, width = max(tuple(state.shape[2:]) for state in chosen)
        return torch.cat([_resized(state, height, width) for state in chosen], dim=1)

    def states(self, pixel_values: Tensor) -> list[Tensor]:
        """Return every hidden state as a map (rows, channels, height, width)."""
        states, _ = hidden_states(self.backbone, pixel_values)
        return [self._as_map(state, tuple(pixel_values.shape[2:])) for state in states]

    def states_code(self) -> str:
        """Return Python that makes `states`, maps of the chosen layers, of the base's `output` for `pixels`."""
        chosen = list(self.layers)
        if self._reshaped:
            return f"states = [output.reshaped_hidden_states[number] for number in {chosen}]"
        held = "[*output.hidden_states[:-1], output.last_hidden_state]"
        if not self._tokens:
            return f"states = [{held}[number] for number in {chosen}]"
        side, after = int(self.config.patch_size), _tokens_after(self.config)
        return (
            f"height, width = pixels.shape[2] // {side}, pixels.shape[3] // {side}\n"
            f"tokens = [{held}[number] for number in {chosen}]\n"
            f"ends = [state.shape[1] - {after} for state in tokens]\n"
            "places = [state[:, end - height * width : end] for state, end in zip(tokens, ends)]\n"
            "states = [state.transpose(1, 2).reshape(1, -1, height, width) for state in places]"
        )

    def _as_map(self, state: Tensor, size: tuple[int, ...]) -> Tensor:
        """Return tokens as a map, without those that stand for no place."""
        if state.ndim == 4:
            return state
        side = getattr(self.config, "patch_size", None)
        if state.ndim == 3 and isinstance(side, int):
            height, width = size[0] // side, size[1] // side
            first = state.shape[1] - _tokens_after(self.config) - height * width
            if first >= 0:
                places = state[:, first : first + height * width]
                return places.transpose(1, 2).reshape(len(state), -1, height, width)
        raise Unsupported(
            f"the hidden states of a {type(self.backbone).__name__}, {tuple(state.shape)}, are on no grid of places",
            where="base",
        )

    def _plain_picture(self) -> Tensor:
        """Return a plain picture that the base reads: a small one, or one of the size that it needs."""
        own, device = getattr(self.config, "image_size", None), next(self.backbone.parameters()).device
        sides = [*_SIDES, *([own] if isinstance(own, int) else [])]
        channels = int(getattr(self.config, "num_channels", None) or 3)
        failed = ""
        for side in sides if not isinstance(own, int) or own >= _SIDES[0] else [own]:
            pixels = torch.zeros(1, channels, side, side, device=device)
            try:
                hidden_states(self.backbone, pixels)
            except (ValueError, RuntimeError) as error:
                failed = str(error)
            else:
                return pixels
        raise Unsupported(f"a {type(self.backbone).__name__} reads no plain picture: {failed}", where="base")


class Unfitted(nn.Module):
    """Stands where a method puts its detector; the length of a patch is then its distance."""

    def forward(self, patches: Tensor) -> Detection:
        """Return lengths, and no scores to compare them with."""
        lengths = patches.float().norm(dim=1)
        none = lengths.new_zeros(len(lengths))
        return Detection(lengths, lengths.flatten(1).amax(1), none[:, None], none)


def hidden_states(backbone: Any, pixel_values: Tensor) -> tuple[list[Tensor], bool]:
    """Return a base's hidden states, and whether it makes maps of its tokens itself. Raises Unsupported for none."""
    output = backbone(pixel_values=pixel_values, output_hidden_states=True)
    if reshaped := getattr(output, "reshaped_hidden_states", None):
        return list(reshaped), True
    if not (found := getattr(output, "hidden_states", None)):
        raise Unsupported(f"a {type(backbone).__name__} gives no hidden states", where="base")
    states, last = list(found), getattr(output, "last_hidden_state", None)
    if isinstance(last, Tensor) and last.shape == states[-1].shape:
        states[-1] = last  # normalised, where the hidden state before is not
    return states, False


def _tokens_after(config: Any) -> int:
    """Return how many tokens stand behind those of places."""
    return int(getattr(config, "num_detection_tokens", 0) or 0)


def default_layers(states: Sequence[Tensor], side: int) -> tuple[int, ...]:
    """Return the last layers whose places are nearest to `STRIDES` pixels apart; the last one where all have one grid.

    `side` is the picture's height and width in pixels.
    """
    last = {state.shape[2]: number for number, state in enumerate(states)}

    def nearest(stride: int) -> int:
        return last[min(last, key=lambda places: abs(math.log2(side / places / stride)))]

    return tuple(sorted({nearest(stride) for stride in STRIDES}))


def neighbourhoods(state: Tensor) -> Tensor:
    """Return each vector averaged with those around it, so that a patch knows its surroundings."""
    if min(state.shape[2:]) < 3:
        return state
    return F.avg_pool2d(state, 3, stride=1, padding=1, count_include_pad=False)


def _resized(state: Tensor, height: int, width: int) -> Tensor:
    if tuple(state.shape[2:]) == (height, width):
        return state
    return F.interpolate(state, size=(height, width), mode="bilinear", align_corners=False)
