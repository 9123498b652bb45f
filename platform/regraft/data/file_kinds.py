"""Kinds of files by name and first bytes: images, DICOM, formats that are not read, and what systems leave behind."""

from __future__ import annotations

import os
from pathlib import Path

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp", ".mpo", ".jps"),
    *(".png", ".apng", ".gif", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".avif", ".avifs"),
    *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    *(".tga", ".icb", ".vda", ".vst", ".ico", ".cur", ".icns", ".pcx", ".dcx", ".sgi", ".rgb", ".rgba", ".bw"),
    *(".ras", ".xbm", ".xpm", ".qoi", ".dds", ".psd", ".msp", ".im", ".fits", ".fit", ".fts"),
    *(".fli", ".flc", ".blp", ".gbr", ".ftc", ".ftu", ".pxr", ".pcd"),
)
"""Suffixes of image files that are read."""
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
"""Suffixes of DICOM files, which often have none, or end with a number."""
_CAMERA_RAW = (
    *(".dng", ".nef", ".nrw", ".cr2", ".cr3", ".crw", ".arw", ".sr2", ".srf", ".srw", ".orf", ".rw2", ".raf", ".pef"),
    *(".rwl", ".x3f", ".3fr", ".fff", ".erf", ".kdc", ".dcr", ".mrw", ".mef", ".mos", ".iiq", ".gpr", ".raw"),
)
UNREAD_IMAGES = {
    **dict.fromkeys(
        (".heic", ".heif", ".hif", ".heics", ".heifs", ".avci"), "photos in HEIF, which are not read: convert to .jpg"
    ),
    **dict.fromkeys(_CAMERA_RAW, "raw data of cameras, which are not read: develop to .jpg or .tif"),
    **dict.fromkeys((".jxl", ".jxr", ".wdp", ".hdp"), "images of a format that is not read: convert to .png"),
    **dict.fromkeys((".exr", ".hdr"), "images of a format that is not read: convert to .png or a .tif of 16 bits"),
}
"""Suffixes of images that are not read, each with what they are and the way out."""
_OTHERS = {
    **dict.fromkeys(
        (".svg", ".svgz", ".eps", ".ps", ".ai", ".wmf", ".emf", ".cdr"),
        "drawings, which are not read: convert to .png",
    ),
    **dict.fromkeys((".pdf", ".djvu", ".xps"), "documents: convert their pages to .png"),
    **dict.fromkeys(
        (".xcf", ".kra", ".psb", ".clip", ".sketch", ".afphoto"), "an editor's files: export images from them as .png"
    ),
    **dict.fromkeys(
        (".czi", ".nd2", ".lif", ".lsm", ".oib", ".oif", ".vsi", ".zvi", ".svs", ".ndpi", ".mrxs", ".scn", ".stk"),
        "a microscope's files, which are not read: export as .tif, as with Fiji",
    ),
    **dict.fromkeys(
        (".mp4", ".mov", ".avi", ".mkv", ".webm", ".wmv", ".m4v", ".mpg", ".mpeg", ".3gp"),
        "films: extract images from them",
    ),
    **dict.fromkeys((".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".bz2", ".xz", ".zst"), "archives: unpack them"),
    **dict.fromkeys(DICOM_SUFFIXES, "DICOM files: read with data.format: dicom"),
    **dict.fromkeys((".npy", ".npz"), "arrays: see data.format: npz"),
    ".nii": "volumes: read with data.format: nifti",
}
"""Suffixes of other files that hold pictures in some way, each with what they are and the way out."""
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
"""Suffixes of tables that may say the labels of the images beside them."""
_SYSTEM_FILES = frozenset(
    {
        *(".ds_store", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "folder.htt", "icon\r"),
        *("picasa.ini", ".picasa.ini", "zbthumbnail.info", "pspbrwse.jbf", ".directory", ".nomedia", ".localized"),
        "autorun.inf",
    }
)
_SYSTEM_FOLDERS = frozenset(
    {
        *("__macosx", "@eadir", "#recycle", "@recycle", "@tmp", "$recycle.bin", "system volume information"),
        *("recycler", "lost+found", "__pycache__"),
    }
)
SYSTEM = "files and folders that systems leave, such as Thumbs.db"
"""The kind of what file managers, file systems and archivers leave in folders."""
HIDDEN = "hidden files and folders"
_IMAGE_BEGINNINGS = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"),
    *(b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51", b"8BPS\x00\x01", b"qoif", b"DDS ", b"icns"),
)
_READ = frozenset(IMAGE_SUFFIXES)
_SYSTEM_NAMES = _SYSTEM_FILES | _SYSTEM_FOLDERS


def suffix_of(name: str) -> str:
    """Return a file name's suffix in lower case; a number after the last dot is none, as DICOM's names have it."""
    suffix = os.path.splitext(name)[1].lower()
    return "" if suffix[1:].isdecimal() else suffix


def leftover_kind(name: str) -> str:
    """Return the kind of a hidden file or folder, or of one that a system leaves; empty for any other."""
    if name.lower() in _SYSTEM_NAMES or name.startswith("._"):
        return SYSTEM
    return HIDDEN if name.startswith(".") else ""


def is_image(path: Path | os.DirEntry[str]) -> bool:
    """Return whether an existing file is an image by its suffix; one without suffix, by its first bytes."""
    suffix = suffix_of(path.name)
    return suffix in _READ or (not suffix and has_image_magic(path))


def is_unread_image(name: str) -> bool:
    """Return whether a name is that of an image in a format that is not read."""
    return suffix_of(name) in UNREAD_IMAGES


def is_dicom(path: Path | os.DirEntry[str]) -> bool:
    """Return whether an existing file is DICOM by its suffix; one without suffix, by its magic number."""
    suffix = suffix_of(path.name)
    return suffix in DICOM_SUFFIXES or (not suffix and has_dicom_magic(path))


def has_image_magic(path: Path | os.DirEntry[str]) -> bool:
    """Return whether a file begins like an image of a format that is read."""
    head = _head(path)
    if head[128:132] == b"DICM":
        return False
    if head[:4] == b"RIFF":
        return head[8:12] == b"WEBP"
    if head[4:8] == b"ftyp":
        return head[8:12] in (b"avif", b"avis")
    if head[:2] == b"BM":
        return len(head) > 14 and head[6:10] == b"\0\0\0\0"
    if head[:4] == b"\0\0\1\0":  # icons, by the number of images in the file
        return 0 < int.from_bytes(head[4:6], "little") < 64
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return True
    return head.startswith(_IMAGE_BEGINNINGS)


def has_dicom_magic(path: Path | os.DirEntry[str]) -> bool:
    """Return whether a file has DICOM's magic number."""
    return _head(path)[128:132] == b"DICM"


def unread_kind(path: Path | os.DirEntry[str]) -> str:
    """Return the kind of a file that is no image that is read, as a plural noun phrase with the way out, if any."""
    if kind := leftover_kind(path.name):
        return kind
    suffix = suffix_of(path.name)
    if not suffix:
        return "files without a suffix that are no images"
    what = UNREAD_IMAGES.get(suffix) or _OTHERS.get(suffix)
    if what is None and has_image_magic(path):
        what = "images by their first bytes: rename them, as to .jpg"
    return f"files named *{suffix}" + (f" ({what})" if what else "")


def _head(path: Path | os.DirEntry[str]) -> bytes:
    """Return a file's first bytes; none for a file that cannot be opened, which its reader reports."""
    try:
        with open(path, "rb") as file:
            return file.read(132)
    except OSError:
        return b""
