"""Medical images written by the maintained libraries; a test is skipped if the library it needs is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest


def scan(path: Path, stored: Any, patient: str = "p1", **fields: Any) -> Path:
    """Write a secondary capture of 16-bit signed values with pydicom."""
    pydicom = pytest.importorskip("pydicom")
    values = np.asarray(stored, dtype=np.int16)
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[str(path)])
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.PatientID, dataset.Modality = patient, "CT"
    dataset.Rows, dataset.Columns = values.shape[-2:]
    if values.ndim == 3:
        dataset.NumberOfFrames = values.shape[0]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    for name, value in fields.items():
        setattr(dataset, name, value)
    dataset.PixelData = values.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def volume(path: Path, values: Any, affine: Any = None, **header: float) -> Path:
    """Write a volume of 16-bit signed values with nibabel."""
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image(np.asarray(values, dtype=np.int16), np.eye(4) if affine is None else affine)
    image.header.set_slope_inter(header.get("slope", 1), header.get("inter", 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path
