"""The same images train the same model, wherever they are stored and however they are packed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.training.session import train_local
from support.image_bases import coloured, tiny_resnet
from unit.store.conftest import moto_endpoint as moto_endpoint
from unit.store.conftest import moto_url as moto_url

SIDES = {"train": 8, "eval": 3}


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    return {side: coloured(tmp_path / side, each=each, seed=each) for side, each in SIDES.items()}


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.png"))


def trained(tmp_path: Path, data: dict[str, str]) -> dict[str, float]:
    base = tmp_path / "base"
    if not base.exists():
        tiny_resnet(base)
    document = {
        "name": "places",
        "base": str(base),
        "task": "image-classification",
        "method": "full",
        "data": data,
        "training": {"epochs": 1, "batch_size": 8, "lr": 3e-3},
        "compute": {"workers": 0, "cpus": 1},
        "store": str(tmp_path / f"store-{len(list(tmp_path.glob('store-*')))}"),
    }
    return dict(train_local(RunSpec.resolve(document)).metrics)


def in_s3(folders: dict[str, Path], tmp_path: Path, url: str) -> dict[str, str]:
    store = open_store(url)
    for path in files(tmp_path):
        store.put(path.relative_to(tmp_path).as_posix(), path)
    return {side: f"{url}/{side}" for side in SIDES}


def in_an_archive(folders: dict[str, Path], tmp_path: Path, url: str) -> dict[str, str]:
    arrays = {}
    for side, folder in folders.items():
        arrays[f"{side}_images"] = np.stack([np.asarray(Image.open(path)) for path in files(folder)])
        arrays[f"{side}_labels"] = np.array([path.parent.name for path in files(folder)])
    np.savez_compressed(tmp_path / "x.npz", allow_pickle=False, **arrays)
    return {side: f"{tmp_path / 'x.npz'}#{side}" for side in SIDES}


def in_a_table(folders: dict[str, Path], tmp_path: Path, url: str) -> dict[str, str]:
    for side, folder in folders.items():
        images = [{"bytes": path.read_bytes(), "path": path.name} for path in files(folder)]
        labels = [path.parent.name for path in files(folder)]
        pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / f"{side}.parquet")
    return {side: f"{tmp_path / side}.parquet" for side in SIDES}


@pytest.mark.parametrize("packed", [in_s3, in_an_archive, in_a_table])
def test_the_same_pictures_train_the_same_model(
    folders: dict[str, Path],
    tmp_path: Path,
    moto_url: str,
    packed: Callable[[dict[str, Path], Path, str], dict[str, str]],
) -> None:
    plain = trained(tmp_path, {side: str(folder) for side, folder in folders.items()})
    assert trained(tmp_path, packed(folders, tmp_path, moto_url)) == plain
