"""Made-up plates: striped pictures that are good, and some with a scratch, with masks of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def plate(number: int, *, scratched: bool = False, side: int = 48) -> tuple[Image.Image, Image.Image]:
    """Return a plate and the mask of its scratch; equal numbers give equal stripes."""
    draw = np.random.default_rng(number)
    stripes = 110 + 25 * np.sin(np.arange(side) / 2 + draw.uniform(0, 6))
    pixels = np.tile(stripes, (side, 1)) + draw.normal(0, 6, (side, side))
    mask = np.zeros((side, side), np.uint8)
    if scratched:
        top, left = draw.integers(8, side - 20, 2)
        mask[top : top + 5, left : left + 14] = 255
        pixels[mask > 0] = draw.choice([0, 255])
    grey = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).convert("RGB")
    return grey, Image.fromarray(mask)


def folder_of_plates(folder: Path, *, good: int, scratched: int = 0, first: int = 0) -> Path:
    """Write good plates into `good/` and scratched ones into `scratch/`; return the folder."""
    for name, count in (("good", good), ("scratch", scratched)):
        if count:
            (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(first, first + count):
            plate(number + 500 * (name != "good"), scratched=name != "good")[0].save(folder / name / f"{number}.png")
    return folder


def table_of_plates(path: Path, *, good: int, scratched: int, first: int = 0) -> Path:
    """Write plates beside a table with the columns image, label and mask; good ones have no mask."""
    lines = ["image,label,mask"]
    for number in range(first, first + good + scratched):
        marked = number >= first + good
        image, mask = plate(number + 500 * marked, scratched=marked)
        image.save(path.parent / f"{path.stem}-{number}.png")
        if marked:
            mask.save(path.parent / f"{path.stem}-{number}-mask.png")
        file = f"{path.stem}-{number}-mask.png" if marked else ""
        lines.append(f"{path.stem}-{number}.png,{'scratch' if marked else 'good'},{file}")
    path.write_text("\n".join(lines) + "\n")
    return path
