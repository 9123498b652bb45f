"""JSON documents of annotation tools that no source reads, and what to export instead."""

from __future__ import annotations

from collections.abc import Collection

_TOOLS = (
    ({"shapes", "imagePath"}, "LabelMe's or X-AnyLabeling's JSON of one image: export it as COCO, VOC or YOLO"),
    ({"_via_img_metadata"}, "a project of the VGG Image Annotator: export its annotations as COCO"),
    ({"items", "categories"}, "Datumaro's JSON: export it as COCO"),
    (
        {"image_id", "category_id", "bbox"},
        "COCO's annotations or results alone, without images and categories: give the whole document",
    ),
)
"""Keys of documents, each with what the document is."""


def document_of_a_tool(keys: Collection[str]) -> str:
    """Return what a document with these keys is and what to do about it; empty for one that is not known."""
    return next((what for known, what in _TOOLS if known <= set(keys)), "")
