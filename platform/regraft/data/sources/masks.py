"""Source of images with masks: in two folders, or side by side with matching names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from regraft.contracts import Raw, Source
from regraft.data.arrays import encode_png
from regraft.data.folders import (
    FolderContents,
    find_mask_folders,
    has_masks_beside,
    image_stem,
    list_images,
    subfolders,
)
from regraft.errors import DataError
from regraft.media.pixels.images import upright_size


class Masks(Source):
    """Images with a mask each, an image file whose pixels are class numbers; the columns are `image` and `mask`.

    They are in two folders (`Images/` and `Masks/`) or side by side; side by side also in folders that are named after
    a label, which is then the column `label`. A mask has its image's name, or that name with `_mask`, `_gt`, `_seg` or
    `_label` after it, and any suffix of images.
    """

    images: str | None = None
    """The folder of the images inside the folder that is read; null finds it by its name (`Images`, `imgs`, ...)."""
    masks: str | None = None
    """The folder of the masks, likewise (`Masks`, `labels`, `annotations`, ...)."""
    missing: Literal["bad", "zero"] = "bad"
    """bad: an image without a mask is a bad row. zero: its mask is 0 everywhere, as for pieces without a defect. Images
    in S3 need their masks."""

    def accepts(self, path: Path) -> bool:
        """Accept a folder with one folder of images and one of masks, or with `name_mask` beside images `name`."""
        return path.is_dir() and (find_mask_folders(path) is not None or has_masks_beside(path))

    def read(self, path: Path) -> Iterator[Raw]:
        """Yield rows by the images' names; an image without a mask, or a mask without an image, is a bad row."""
        if not path.is_dir():
            raise DataError("is a file; a folder of images and masks is wanted", str(path))
        if folders := self._folders(path):
            image_folder, mask_folder = folders
            for folder in folders:
                yield from FolderContents.read(folder).passed_over()
            yield from self._pair_rows(list(list_images(image_folder)), list(list_images(mask_folder)), mask_folder, {})
            return
        if not has_masks_beside(path):
            raise DataError(
                "holds no folder of images beside one of masks, and no image with a mask beside it (name.jpg and "
                "name_mask.png): write in data.format what the folders are called, as in "
                "{type: masks, images: photos, masks: truth}",
                str(path),
            )
        for folder in (path, *subfolders(path)):
            yield from FolderContents.read(folder).passed_over()
            files = list(list_images(folder))
            masks = [file for file in files if image_stem(file.stem) is not None]
            images = [file for file in files if image_stem(file.stem) is None]
            yield from self._pair_rows(images, masks, folder, {} if folder == path else {"label": folder.name})

    def _folders(self, path: Path) -> tuple[Path, Path] | None:
        """Return the folders of images and of masks; None when they are side by side."""
        if self.images is None and self.masks is None:
            return find_mask_folders(path)
        found = find_mask_folders(path) or (None, None)
        images = path / self.images if self.images else found[0]
        masks = path / self.masks if self.masks else found[1]
        for folder, name in ((images, "images"), (masks, "masks")):
            if folder is None:
                raise DataError(f"data.format names one of two folders: write {name}, too", str(path))
            if not folder.is_dir():
                raise DataError(f"data.format.{name} names {folder.name!r}, and there is no such folder", str(path))
        return (images, masks) if images and masks else None

    def _pair_rows(
        self, images: list[Path], masks: list[Path], mask_folder: Path, label: dict[str, str]
    ) -> Iterator[Raw]:
        """Yield rows of images with the masks of their names."""
        stems = Counter(image.stem for image in images)
        masks_by_stem = _by_image(masks, stems)
        for image in images:
            matching = masks_by_stem.pop(image.stem, [])
            values = {"image": str(image), **label}
            if len(matching) == 1 and stems[image.stem] == 1:
                yield Raw({**values, "mask": str(matching[0])}, str(image))
            elif matching:
                names = ", ".join(mask.name for mask in matching)
                many = f"{stems[image.stem]} images of this name have {len(matching)} masks ({names})"
                yield Raw(values, str(image), f"{many}: one for each is wanted")
            elif self.missing == "zero" and image.stat().st_size:
                yield _with_zero_mask(image, values)
            else:
                problem = f"has no mask: {image.stem}_mask.png or {image.stem}.png is looked for in {mask_folder}"
                yield Raw(values, str(image), problem)
        for mask in (mask for unmatched in masks_by_stem.values() for mask in unmatched):
            yield Raw({"mask": str(mask)}, str(mask), "is a mask without an image: add the image, or move it away")


def _by_image(masks: list[Path], stems: Container[str]) -> dict[str, list[Path]]:
    """Return masks by the stem of their image: the mask's own if an image has it, else that without its mark."""
    by_stem: dict[str, list[Path]] = {}
    for mask in masks:
        stem = mask.stem if mask.stem in stems else image_stem(mask.stem) or mask.stem
        by_stem.setdefault(stem, []).append(mask)
    return by_stem


def _with_zero_mask(image: Path, values: dict[str, Any]) -> Raw:
    """Return a row whose mask is 0 everywhere, as the bytes of a file: no such file exists."""
    try:
        width, height = upright_size(image)
    except DataError as error:
        return Raw(values, str(image), error.message)
    return Raw({**values, "mask": encode_png(np.zeros((height, width), np.uint8))}, str(image))
