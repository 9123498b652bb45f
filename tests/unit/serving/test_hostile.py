"""Hostile model folders and deltas are refused before a byte of them is used: no code runs, no other file is read."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from regraft.bases.locate import locate
from regraft.errors import RegraftError
from regraft.serving.predictor import Predictor
from regraft.store import checksummed
from support.tiny import tiny_bert
from unit.serving.tiny import publish

_watched: list[tuple[str, str]] | None = None
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "pickle.find_class")


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched is not None and (event in FORBIDDEN or event == "open"):
        _watched.append((event, os.path.realpath(str(arguments[0])) if event == "open" else repr(arguments)))


sys.addaudithook(_listen)  # an audit hook stays for the process's life; it is active only during a test


class Runs:
    """An object whose pickle leaves a marker when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self._marker}",)


class World:
    """A base in a folder, a file outside that must not be read, and a marker that must not appear."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.base = Path(shutil.copytree(base, folder / "base"))
        self.outside = folder / "outside"
        self.outside.mkdir()
        shutil.copy(base / "model.safetensors", self.outside / "model.safetensors")
        (self.outside / "secret.txt").write_text("canary")
        self.marker = folder / "marker"
        self.code = f"open({str(self.marker)!r}, 'w').close()\n"
        self.pickled = pickle.dumps(Runs(self.marker))

    def config(self, name: str = "config.json", **more: Any) -> None:
        path = self.base / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **more}))

    def weights(self, edit: Callable[[dict[str, Any], bytes], tuple[str, bytes]]) -> None:
        """Rewrite header (as text) and bytes of the weights."""
        data = (self.base / "model.safetensors").read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        text, body = edit(json.loads(data[8 : 8 + length]), data[8 + length :])
        self.raw(struct.pack("<Q", len(text.encode())) + text.encode() + body)

    def raw(self, data: bytes) -> None:
        (self.base / "model.safetensors").write_bytes(data)

    def index(self, shard: str) -> None:
        (self.base / "model.safetensors").rename(self.base / "one.safetensors")
        (self.base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("hostile") / "base")


@pytest.fixture
def world(saved: Path, tmp_path: Path) -> Iterator[World]:
    """Files for a test to make hostile; afterwards no code may have run and no other file may have been read."""
    made = World(tmp_path, saved)
    yield made
    assert not made.marker.exists(), "code of the folder ran"


def refused(world: World, use: Callable[[], object]) -> str:
    """Return the error; fail when code ran, or anything was connected to, unpickled, or read outside."""
    global _watched
    seen = _watched = []
    try:
        with pytest.raises(RegraftError) as caught:
            use()
    finally:
        _watched = None
    assert not [event for event in seen if event[0] != "open"]
    assert not [path for event, path in seen if event == "open" and path.startswith(str(world.outside))]
    return str(caught.value)


def first(header: dict[str, Any]) -> dict[str, Any]:
    """Return the entry of the first tensor in the file."""
    found: dict[str, Any] = min(
        (entry for name, entry in header.items() if name != "__metadata__"), key=lambda entry: entry["data_offsets"]
    )
    return found


def pickle_alone(world: World) -> None:
    (world.base / "model.safetensors").unlink()
    (world.base / "pytorch_model.bin").write_bytes(world.pickled)


def checkpoint_alone(world: World) -> None:
    (world.base / "model.safetensors").unlink()
    for name in ("model.pt", "weights.ckpt", "model.pkl"):
        (world.base / name).write_bytes(world.pickled)


def pickle_called_safetensors(world: World) -> None:
    world.raw(world.pickled)


def pickle_behind_the_tensors(world: World) -> None:
    world.raw((world.base / "model.safetensors").read_bytes() + world.pickled)


def code_of_the_model(world: World) -> None:
    (world.base / "modeling_evil.py").write_text(world.code)
    world.config(auto_map={"AutoModel": "modeling_evil.Evil"})


def code_in_a_folder_below(world: World) -> None:
    (world.base / "custom").mkdir()
    (world.base / "custom" / "__init__.py").write_text(world.code)


def code_from_the_hub(world: World) -> None:
    world.config(auto_map={"AutoModel": "evil/repository--modeling.Evil"})


def code_of_the_tokenizer(world: World) -> None:
    world.config("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil/repository--tokenizer.Evil", None]})


def code_asked_for_deep_inside(world: World) -> None:
    world.config(backbone_config={"inner": [{"trust_remote_code": True}]})


def key_twice(world: World) -> None:
    path = world.base / "config.json"
    path.write_text('{"auto_map": {"AutoModel": "a.B"}, "auto_map": null,' + path.read_text().lstrip()[1:])


def nested_ten_thousand_deep(world: World) -> None:
    (world.base / "config.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000)


def template_that_reaches_inside(world: World) -> None:
    trick = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    (world.base / "chat_template.jinja").write_text(trick)


def template_in_the_configuration(world: World) -> None:
    world.config("tokenizer_config.json", chat_template="{{ messages|attr('__init__') }}")


def template_that_includes_a_file(world: World) -> None:
    (world.base / "chat_template.jinja").write_text(f"{{% include '{world.outside}/secret.txt' %}}")


def link_out(world: World) -> None:
    (world.base / "vocab.txt").symlink_to(world.outside / "secret.txt")


def weights_that_are_a_link_out(world: World) -> None:
    (world.base / "model.safetensors").unlink()
    (world.base / "model.safetensors").symlink_to(world.outside / "model.safetensors")


def folder_that_is_a_link_out(world: World) -> None:
    (world.base / "2_Dense").symlink_to(world.outside)


def index_that_climbs(world: World) -> None:
    world.index("../outside/model.safetensors")


def index_with_an_absolute_path(world: World) -> None:
    world.index(str(world.outside / "model.safetensors"))


def index_with_a_backslash(world: World) -> None:
    world.index("..\\outside\\model.safetensors")


def index_with_a_nul(world: World) -> None:
    world.index("one.safetensors\0.safetensors")


def index_of_a_pickle(world: World) -> None:
    (world.base / "pytorch_model.bin").write_bytes(world.pickled)
    world.index("pytorch_model.bin")


def header_longer_than_allowed(world: World) -> None:
    with (world.base / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 200 * 2**20))
        file.truncate(200 * 2**20 + 8)  # a sparse file: no blocks on the disk


def header_of_two_to_the_63(world: World) -> None:
    world.raw(struct.pack("<Q", 2**63) + b"{}")


def tensors_that_overlap(world: World) -> None:
    def edit(header: dict[str, Any], body: bytes) -> tuple[str, bytes]:
        names = sorted((name for name in header if name != "__metadata__"), key=lambda n: header[n]["data_offsets"])
        header[names[1]] = dict(header[names[0]])
        return json.dumps(header), body

    world.weights(edit)


def tensor_beyond_the_file(world: World) -> None:
    def edit(header: dict[str, Any], body: bytes) -> tuple[str, bytes]:
        header["beyond"] = {"dtype": "U8", "shape": [10], "data_offsets": [len(body), len(body) + 10]}
        return json.dumps(header), body

    world.weights(edit)


def tensor_before_the_file(world: World) -> None:
    def edit(header: dict[str, Any], body: bytes) -> tuple[str, bytes]:
        first(header)["data_offsets"][0] = -4096
        return json.dumps(header), body

    world.weights(edit)


def dtype_that_lies(world: World) -> None:
    def edit(header: dict[str, Any], body: bytes) -> tuple[str, bytes]:
        first(header)["dtype"] = "F64"
        return json.dumps(header), body

    world.weights(edit)


def shape_of_an_exabyte(world: World) -> None:
    def edit(header: dict[str, Any], body: bytes) -> tuple[str, bytes]:
        first(header)["shape"] = [2**40, 2**40]
        return json.dumps(header), body

    world.weights(edit)


def tensor_twice_in_the_header(world: World) -> None:
    def edit(header: dict[str, Any], body: bytes) -> tuple[str, bytes]:
        name = next(name for name in header if name != "__metadata__")
        return json.dumps(header)[:-1] + f", {json.dumps(name)}: {json.dumps(header[name])}}}", body

    world.weights(edit)


BASES = [
    pickle_alone, checkpoint_alone, pickle_called_safetensors, pickle_behind_the_tensors, code_of_the_model,
    code_in_a_folder_below, code_from_the_hub, code_of_the_tokenizer, code_asked_for_deep_inside, key_twice,
    nested_ten_thousand_deep, template_that_reaches_inside, template_in_the_configuration,
    template_that_includes_a_file, link_out, weights_that_are_a_link_out, folder_that_is_a_link_out, index_that_climbs,
    index_with_an_absolute_path, index_with_a_backslash, index_with_a_nul, index_of_a_pickle,
    header_longer_than_allowed, header_of_two_to_the_63, tensors_that_overlap, tensor_beyond_the_file,
    tensor_before_the_file, dtype_that_lies, shape_of_an_exabyte, tensor_twice_in_the_header,
]  # fmt: skip


@pytest.mark.parametrize("hostile", BASES, ids=lambda function: function.__name__)
def test_a_hostile_base_is_refused(hostile: Callable[[World], None], world: World) -> None:
    assert locate(str(world.base)).hash, "harmless before"
    hostile(world)
    assert refused(world, lambda: locate(str(world.base)))


class Published:
    """A version in a store that an attacker can write to: its manifest can be rewritten with the right hashes."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.store = world, folder / "store"
        version, _ = publish(self.store, world.base, "text-classification", "feature-extraction")
        self.at = self.store / version.prefix
        self.manifest = self.at / "manifest.json"

    def replace(self, name: str, data: bytes) -> None:
        """Replace the bytes of a file of the version, and its hash in the manifest."""
        (self.at / name).parent.mkdir(parents=True, exist_ok=True)
        (self.at / name).write_bytes(data)
        entry = {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}

        def edit(body: dict[str, Any]) -> None:
            body["files"] = [other for other in body["files"] if other["name"] != name] + [entry]

        self.rewrite(edit)

    def rewrite(self, edit: Callable[[dict[str, Any]], None]) -> None:
        """Change the manifest and recompute its hash."""
        body = {key: value for key, value in json.loads(self.manifest.read_text()).items() if key != "sha256"}
        edit(body)
        self.manifest.write_bytes(checksummed.dump(body))

    def name(self, name: str) -> None:
        """Rename the delta in the manifest."""
        self.rewrite(lambda body: body["files"][0].__setitem__("name", name))


def names_a_file_above(version: Published) -> None:
    version.name("../../../../outside/model.safetensors")


def names_an_absolute_file(version: Published) -> None:
    version.name(str(version.world.outside / "model.safetensors"))


def names_a_file_by_backslashes(version: Published) -> None:
    version.name("..\\..\\outside")


def names_a_file_with_nul(version: Published) -> None:
    version.name("delta.safetensors\0")


def other_bytes(version: Published) -> None:
    path = version.at / "delta.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def pickle_as_delta(version: Published) -> None:
    version.replace("delta.safetensors", version.world.pickled)


def delta_that_is_a_link_out(version: Published) -> None:
    data = (version.world.outside / "model.safetensors").read_bytes()
    version.replace("delta.safetensors", data)
    (version.at / "delta.safetensors").unlink()
    (version.at / "delta.safetensors").symlink_to(version.world.outside / "model.safetensors")


def delta_of_other_tensors(version: Published) -> None:
    version.replace("delta.safetensors", save({"embeddings.word_embeddings.weight": torch.zeros(3, 3)}))


def delta_with_a_huge_shape(version: Published) -> None:
    text = json.dumps({"classifier.weight": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 8]}}).encode()
    version.replace("delta.safetensors", struct.pack("<Q", len(text)) + text + b"\0" * 8)


def tokenizer_with_code(version: Published) -> None:
    version.replace("processor/tokenization_evil.py", version.world.code.encode())


def tokenizer_that_asks_for_code(version: Published) -> None:
    config = {"auto_map": {"AutoTokenizer": ["tokenization_evil.Evil", None]}}
    version.replace("processor/tokenizer_config.json", json.dumps(config).encode())


def tokenizer_whose_template_reaches_inside(version: Published) -> None:
    version.replace("processor/chat_template.jinja", b"{{ messages.__class__.__init__.__globals__ }}")


def claims_another_base(version: Published) -> None:
    version.rewrite(lambda body: body["meta"]["base"].__setitem__("hash", "0" * 64))


def task_by_a_path(version: Published) -> None:
    version.rewrite(lambda body: body["meta"].__setitem__("task", {"type": "../../outside/evil"}))


def manifest_that_was_not_sealed_again(version: Published) -> None:
    version.manifest.write_text(version.manifest.read_text().replace('"0.1.0"', '"0.2.0"', 1))


DELTAS = [
    names_a_file_above, names_an_absolute_file, names_a_file_by_backslashes, names_a_file_with_nul, other_bytes,
    pickle_as_delta, delta_that_is_a_link_out, delta_of_other_tensors, delta_with_a_huge_shape, tokenizer_with_code,
    tokenizer_that_asks_for_code, tokenizer_whose_template_reaches_inside, claims_another_base, task_by_a_path,
    manifest_that_was_not_sealed_again,
]  # fmt: skip


@pytest.mark.parametrize("hostile", DELTAS, ids=lambda function: function.__name__)
def test_a_hostile_version_is_refused(
    hostile: Callable[[Published], None], world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    version = Published(world, tmp_path)
    before: Mapping[str, Any] = json.loads(version.manifest.read_text())
    hostile(version)
    assert before != json.loads(version.manifest.read_text()) or hostile in (other_bytes,)
    assert refused(world, lambda: Predictor.open(str(version.store), "tiny", device="cpu"))


def test_a_harmless_version_is_opened(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    version = Published(world, tmp_path)
    assert Predictor.open(str(version.store), "tiny", device="cpu").name == "tiny@v1"
