"""Bases are located on disk, in packages and on the hub; their hash depends on content; unsafe ones are refused."""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from regraft.bases import safetensors_header, safety
from regraft.bases.locate import locate, processor_files
from regraft.errors import BaseError
from unit.bases.families import save


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("bert", tmp_path_factory.mktemp("base"))


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "base"))


def refused(reference: str | Path, *parts: str) -> None:
    with pytest.raises(BaseError) as caught:
        locate(str(reference))
    for part in parts:
        assert part in str(caught.value)
    assert caught.value.exit_code == 2


def test_the_hash_is_of_the_content_and_not_of_the_place(folder: Path, tmp_path: Path) -> None:
    elsewhere = Path(shutil.copytree(folder, tmp_path / "other" / "place"))
    (elsewhere / "README.md").write_text("what a base is called does not change what it is")
    one, two = locate(str(folder)), locate(str(elsewhere))
    assert (one.hash, one.processor_hash) == (two.hash, two.processor_hash)
    assert locate(str(folder)) == one


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "1_Pooling/config.json", "generation_config.json"]
)
def test_one_changed_byte_is_another_base(folder: Path, name: str) -> None:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        path.write_text("{}")
    before = locate(str(folder))
    content = path.read_bytes()
    path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:] if name.endswith("rs") else content + b" ")
    after = locate(str(folder))
    assert after.hash != before.hash
    assert after.processor_hash == before.processor_hash


def test_the_processor_has_a_hash_of_its_own(folder: Path) -> None:
    before = locate(str(folder))
    (folder / "vocab.txt").write_text("[PAD]\n")
    after = locate(str(folder))
    assert after.hash == before.hash
    assert after.processor_hash != before.processor_hash
    assert [path.name for path in processor_files(after)] == ["vocab.txt"]


def test_a_package_is_found_and_never_imported(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "holds_a_base"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "inner" / "__init__.py").write_text("raise SystemExit('imported')")
    shutil.copytree(folder, package / "inner" / "model")
    monkeypatch.syspath_prepend(tmp_path / "site")
    base = locate("package:holds_a_base.inner/model")
    assert base.hash == locate(str(folder)).hash == locate("package:holds_a_base/inner/model").hash
    assert "holds_a_base" not in sys.modules
    refused("package:holds_a_base/nowhere", "no folder 'nowhere'")
    refused("package:holds_a_base/../../base", "no folder")
    refused("package:no_such_package_at_all/model", "no package 'no_such_package_at_all' installed")


def test_a_hub_id_is_found_in_the_mirror(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(folder, tmp_path / "mirror" / "acme" / "tiny")
    monkeypatch.setenv("REGRAFT_HUB_MIRROR", str(tmp_path / "mirror"))
    assert locate("acme/tiny").hash == locate(str(folder)).hash
    refused("acme/large", "'acme/large' is not in the mirror", str(tmp_path / "mirror"))
    refused("acme/tiny@v1", "'acme/tiny@v1' is not in the mirror")
    shutil.copytree(folder, tmp_path / "mirror" / "acme" / "tiny@v1")
    assert locate("acme/tiny@v1").revision == "v1"


def test_an_unknown_hub_id_without_a_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("acme/there-is-no-such-model", "is not a folder", "REGRAFT_HUB_MIRROR")


@pytest.mark.parametrize("reference", ["gs://bucket/model", "./not/there", "/not/there", "a/b/c/d", "", "a b", "s3:/x"])
def test_what_is_no_reference_is_answered_with_what_is(reference: str) -> None:
    refused(reference, repr(reference), "allowed are a hub id")


def test_a_file_is_no_base(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("")
    refused(tmp_path / "model", "is a file")


def test_links_inside_the_folder_and_into_the_hubs_cache_are_fine(folder: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--acme--tiny" / "blobs", tmp_path / "models--acme--tiny" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(folder.iterdir())):
        shutil.copy(path, blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    assert locate(str(snapshot)).hash == locate(str(folder)).hash
    (folder / "copy.json").symlink_to("config.json")
    locate(str(folder))


def damage(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return apply


def config(**more: object) -> Callable[[Path], None]:
    return damage("config.json", lambda content: json.dumps({**json.loads(content), **more}).encode())


def write(name: str, text: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)

    return apply


def rename(name: str, other: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / name).rename(folder / other)

    return apply


def link_out(folder: Path) -> None:
    (folder.parent / "secret.json").write_text("{}")
    (folder / "tokenizer.json").symlink_to("../secret.json")


def link_folder_out(folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir()
    (folder / "1_Pooling").symlink_to("../elsewhere")


def huge_header(folder: Path) -> None:
    length = safetensors_header.MAX_HEADER_BYTES + 1
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", length))
        file.truncate(8 + length)


def unlink(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def index(*shards: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
        weight_map = {f"weight{number}": shard for number, shard in enumerate(shards)}
        (folder / safety.INDEX).write_text(json.dumps({"weight_map": weight_map}))

    return apply


REFUSED: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "no config": (unlink("config.json"), ("no config.json", "save_pretrained")),
    "no weights": (unlink("model.safetensors"), ("no *.safetensors", "save_pretrained")),
    "pickle only": (
        rename("model.safetensors", "pytorch_model.bin"),
        ("pytorch_model.bin", "can run code", "save_pretrained"),
    ),
    "unknown weights only": (
        rename("model.safetensors", "adapter_model.safetensors"),
        ("adapter_model.safetensors", "neither model.safetensors nor"),
    ),
    "code": (write("modeling_mine.py", ""), ("modeling_mine.py is code",)),
    "code deeper": (write("custom/modeling_mine.py", ""), ("custom/modeling_mine.py is code",)),
    "auto_map": (config(auto_map={"AutoModel": "mine.Model"}), ("config.json", "auto_map", "never done")),
    "auto_map of the tokenizer": (
        write("tokenizer_config.json", '{"auto_map": {"AutoTokenizer": ["x.T", null]}}'),
        ("tokenizer_config.json", "auto_map"),
    ),
    "auto_map of a folder in the folder": (
        write("1_Pooling/config.json", '{"auto_map": {"AutoModel": "x.T"}}'),
        ("1_Pooling/config.json", "auto_map"),
    ),
    "trust_remote_code nested": (
        config(text_config={"layers": [{"trust_remote_code": True}]}),
        ("text_config.layers.0.trust_remote_code",),
    ),
    "a checkpoint of timm elsewhere": (
        config(model_args={"checkpoint_path": "/tmp/x.pth"}),
        ("config.json names model_args.checkpoint_path '/tmp/x.pth'", "not this base's own"),
    ),
    "a checkpoint of timm elsewhere, in a part": (
        config(vision_config={"model_type": "timm_wrapper", "model_args": {"checkpoint_path": "/tmp/x.pth"}}),
        ("config.json names model_args.checkpoint_path '/tmp/x.pth'",),
    ),
    "an architecture of timm elsewhere, in a list of parts": (
        config(parts=[{"architecture": "local-dir:/tmp/x"}]),
        ("config.json names architecture 'local-dir:/tmp/x'",),
    ),
    "an architecture of timm elsewhere": (
        config(architecture="local-dir:/tmp/x", pretrained_cfg={}),
        ("config.json names architecture 'local-dir:/tmp/x'",),
    ),
    "config cut": (damage("config.json", lambda content: content[:20]), ("config.json cannot be read as JSON",)),
    "config of another kind": (damage("config.json", lambda _: b"[]"), ("config.json holds no JSON object",)),
    "config too deep": (damage("config.json", lambda _: b"[" * 100_000), ("config.json cannot be read",)),
    "weights cut": (damage("model.safetensors", lambda content: content[:-7]), ("model.safetensors is cut",)),
    "weights cut in the header": (damage("model.safetensors", lambda content: content[:50]), ("is cut",)),
    "weights empty": (damage("model.safetensors", lambda _: b""), ("is cut",)),
    "weights padded": (damage("model.safetensors", lambda content: content + b"x"), ("cut short or padded",)),
    "header not JSON": (
        damage("model.safetensors", lambda content: content[:8] + b"x" + content[9:]),
        ("header that is not readable",),
    ),
    "header too large": (huge_header, ("header of 104857601 bytes", "104857600")),
    "link out": (link_out, ("tokenizer.json is a link out of the folder",)),
    "linked folder out": (link_folder_out, ("1_Pooling is a link out of the folder",)),
    "index out": (index("../other.safetensors"), ("names '../other.safetensors'",)),
    "index to a pickle": (index("model.bin"), ("names 'model.bin'",)),
    "index to what is not there": (
        index("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
        ("names model-00002-of-00002.safetensors, which is missing",),
    ),
    "index cut": (write(safety.INDEX, '{"weight_map"'), ("index.json cannot be read",)),
    "index of another kind": (write(safety.INDEX, "[]"), ("index.json cannot be read",)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_unsafe_or_damaged_base_is_refused_by_name(folder: Path, case: str) -> None:
    change, parts = REFUSED[case]
    change(folder)
    refused(folder, str(folder), *parts)


def test_keys_that_only_say_no_are_fine(folder: Path) -> None:
    config(trust_remote_code=False, auto_map=None)(folder)
    locate(str(folder))


def test_a_words_list_may_hold_any_word(folder: Path) -> None:
    (folder / "vocab.json").write_text('{"auto_map": 1, "trust_remote_code": 2}')
    locate(str(folder))


def test_a_sharded_base_is_whole(folder: Path) -> None:
    index("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")(folder)
    save_file({"weight1": torch.ones(2)}, folder / "model-00002-of-00002.safetensors")
    before = locate(str(folder)).hash
    save_file({"weight1": torch.zeros(2)}, folder / "model-00002-of-00002.safetensors")
    assert locate(str(folder)).hash != before


def test_reading_needs_no_right_to_write(folder: Path) -> None:
    before = sorted(os.listdir(folder))
    locate(str(folder))
    assert sorted(os.listdir(folder)) == before


ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "org/gpt", "r": 4}


@pytest.mark.parametrize(("config", "inside"), [(False, ""), (True, ""), (False, "default")])
def test_an_adapter_named_as_base_names_the_base_inside(tmp_path: Path, config: bool, inside: str) -> None:
    folder = tmp_path / "adapter" / inside
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER))
    save_file({"lora_A": torch.zeros(1)}, folder / "adapter_model.safetensors")
    if config:
        (folder / "config.json").write_text("{}")
    refused(tmp_path / "adapter", "PEFT adapter (LORA) of org/gpt", "merge_and_unload()", "or name org/gpt")


def test_an_adapter_that_names_no_base_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("[]")
    (tmp_path / "adapter_model.bin").write_bytes(b"x")
    refused(tmp_path, "this is a PEFT adapter", "name the base that it was made of")


def test_an_adapters_configuration_beside_complete_weights_is_refused(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER))
    refused(folder, "remove adapter_config.json if the model is merged")
