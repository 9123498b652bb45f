"""Images and their masks: in two folders, or side by side under names that belong together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from regraft.contracts import Raw, Source
from regraft.data.arrays import png
from regraft.data.folders import images_in, mask_folders, masks_beside, subfolders, unmarked
from regraft.errors import DataError
from regraft.media.pixels.images import seen_size


class Masks(Source):
    """Images with a mask each, an image file whose pixels are class numbers; the rows are `image` and `mask`.

    They lie in two folders (`Images/` and `Masks/`) or side by side, there also in folders that are named after a
    label, which the rows then hold too. A mask has its image's name, or that with `_mask`, `_gt`, `_seg` or `_label`
    after it, and any suffix of images.
    """

    images: str | None = None
    """The folder of the images inside of the folder read; null finds it by its name (`Images`, `imgs`, ...)."""
    masks: str | None = None
    """The folder of the masks, likewise (`Masks`, `labels`, `annotations`, ...)."""
    missing: Literal["bad", "zero"] = "bad"
    """What an image without a mask is: a bad row (bad), or one whose mask is 0 all over (zero), as pieces without a
    defect are kept. Images in S3 need their masks."""

    def accepts(self, path: Path) -> bool:
        """A folder that holds one folder of images and one of masks, or images with `name_mask` beside `name`."""
        return path.is_dir() and (mask_folders(path) is not None or masks_beside(path))

    def read(self, path: Path) -> Iterator[Raw]:
        """Rows by the images' names; an image without a mask, or a mask without an image, is a bad row."""
        if not path.is_dir():
            raise DataError("is a file; a folder of images and masks is wanted", str(path))
        if pair := self._pair(path):
            images, masks = pair
            yield from self._aligned(list(images_in(images)), list(images_in(masks)), masks, {})
            return
        if not masks_beside(path):
            raise DataError(
                "holds no folder of images beside one of masks, and no image with a mask beside it (name.jpg and "
                "name_mask.png): say in data.format what the folders are called, as in "
                "{type: masks, images: photos, masks: truth}",
                str(path),
            )
        for place in (path, *subfolders(path)):
            found = list(images_in(place))
            marked = [image for image in found if unmarked(image.stem) is not None]
            label = {} if place == path else {"label": place.name}
            plain = [image for image in found if unmarked(image.stem) is None]
            yield from self._aligned(plain, marked, place, label)

    def _pair(self, path: Path) -> tuple[Path, Path] | None:
        if self.images is None and self.masks is None:
            return mask_folders(path)
        found = mask_folders(path) or (None, None)
        images = path / self.images if self.images else found[0]
        masks = path / self.masks if self.masks else found[1]
        for folder, name in ((images, "images"), (masks, "masks")):
            if folder is None:
                raise DataError(f"data.format names one of two folders: write {name}, too", str(path))
            if not folder.is_dir():
                raise DataError(f"data.format.{name} names {folder.name!r}, and there is no such folder", str(path))
        return (images, masks) if images and masks else None

    def _aligned(self, images: list[Path], masks: list[Path], place: Path, label: dict[str, str]) -> Iterator[Raw]:
        """Images with the masks that bear their names."""
        stems = Counter(image.stem for image in images)
        owned = _by_image(masks, stems)
        for image in images:
            own = owned.pop(image.stem, [])
            values = {"image": str(image), **label}
            if len(own) == 1 and stems[image.stem] == 1:
                yield Raw({**values, "mask": str(own[0])}, str(image))
            elif own:
                names = ", ".join(mask.name for mask in own)
                many = f"{stems[image.stem]} images of this name have {len(own)} masks ({names})"
                yield Raw(values, str(image), f"{many}: one for each is wanted")
            elif self.missing == "zero" and image.stat().st_size:
                yield _without(image, values)
            else:
                told = f"has no mask: {image.stem}_mask.png or {image.stem}.png is looked for in {place}"
                yield Raw(values, str(image), told)
        for mask in (mask for strays in owned.values() for mask in strays):
            yield Raw({"mask": str(mask)}, str(mask), "is a mask without an image: add the image, or move it away")


def _by_image(masks: list[Path], stems: Container[str]) -> dict[str, list[Path]]:
    """Masks by the name of their image: their own where an image has it, else that without its mark."""
    owned: dict[str, list[Path]] = {}
    for mask in masks:
        stem = mask.stem if mask.stem in stems else unmarked(mask.stem) or mask.stem
        owned.setdefault(stem, []).append(mask)
    return owned


def _without(image: Path, values: dict[str, Any]) -> Raw:
    """A row whose mask holds nothing but 0; its bytes are a file's, as no file of its own exists."""
    try:
        width, height = seen_size(image)
    except DataError as error:
        return Raw(values, str(image), error.message)
    return Raw({**values, "mask": png(np.zeros((height, width), np.uint8))}, str(image))
