"""Models and processors are loaded in fp32, seeded, without output, and only from files that fit."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizer

from regraft.bases.load import BaseLoader, load_processor, quiet
from regraft.bases.locate import Base, locate
from regraft.errors import BaseError
from unit.bases.families import LABELS, save


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save("bert", tmp_path / "base")


def rewrite(folder: Path, **more: object) -> Base:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))
    return locate(str(folder))


def test_the_head_has_the_labels_and_the_bases_weights_below_it(folder: Path) -> None:
    model = BaseLoader(locate(str(folder)))("AutoModelForSequenceClassification", labels=LABELS)
    assert isinstance(model, BertForSequenceClassification)
    assert model.config.id2label == dict(enumerate(LABELS))
    assert model.config.label2id == {label: number for number, label in enumerate(LABELS)}
    assert model.classifier.out_features == 3
    stored = load_file(folder / "model.safetensors")
    assert all(torch.equal(tensor, stored[name]) for name, tensor in model.bert.state_dict().items())


def test_half_precision_files_become_fp32(folder: Path) -> None:
    stored = {name: tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    model = BaseLoader(rewrite(folder, dtype="float16"))("AutoModel")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_new_layers_come_from_torchs_generator(folder: Path) -> None:
    load = BaseLoader(locate(str(folder)))
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        weights.append(load("AutoModelForSequenceClassification", labels=LABELS).get_parameter("classifier.weight"))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_head_of_another_size_is_drawn_anew(folder: Path) -> None:
    with quiet():
        BertForSequenceClassification.from_pretrained(folder, num_labels=7).save_pretrained(folder)
    model = BaseLoader(locate(str(folder)))("AutoModelForSequenceClassification", labels=LABELS)
    assert model.get_parameter("classifier.weight").shape == (3, 8)


def test_keywords_reach_the_configuration_or_the_constructor(folder: Path) -> None:
    load = BaseLoader(locate(str(folder)))
    model = load("AutoModel", add_pooling_layer=False, layer_norm_eps=0.5)
    assert model.pooler is None
    assert model.get_submodule("embeddings.LayerNorm").eps == 0.5
    assert load.config.layer_norm_eps != 0.5


def test_a_pooler_that_the_files_lack_is_named(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    with quiet():
        BertModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    load = BaseLoader(locate(str(tmp_path)))
    load("AutoModelForSequenceClassification", labels=LABELS)
    assert load.missing == {"pooler.dense.weight", "pooler.dense.bias"}


def test_files_without_a_weight_of_the_base_are_refused(folder: Path) -> None:
    stored = load_file(folder / "model.safetensors")
    del stored["encoder.layer.1.output.dense.weight"]
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(BaseError, match=r"the weights lack encoder\.layer\.1\.output\.dense\.weight \(1 in all\)"):
        BaseLoader(locate(str(folder)))("AutoModelForSequenceClassification", labels=LABELS)


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    with pytest.raises(BaseError, match="or hold it in another shape"):
        BaseLoader(rewrite(folder, intermediate_size=16))("AutoModel")


def test_an_unknown_architecture_is_reported(folder: Path) -> None:
    with pytest.raises(BaseError, match=r"config\.json cannot be loaded.*nobodys-architecture"):
        BaseLoader(rewrite(folder, model_type="nobodys-architecture"))


def test_a_task_the_family_has_not_is_reported(folder: Path) -> None:
    with pytest.raises(BaseError, match="AutoModelForObjectDetection on bert cannot be loaded"):
        BaseLoader(locate(str(folder)))("AutoModelForObjectDetection", labels=LABELS)


def test_loading_says_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    BaseLoader(locate(str(folder)))("AutoModelForSequenceClassification", labels=LABELS)
    assert capfd.readouterr() == ("", "")


def test_debug_brings_the_libraries_voice_back(folder: Path) -> None:
    log = logging.getLogger("regraft")
    before, theirs = log.level, transformers.utils.logging.get_verbosity()
    log.setLevel(logging.DEBUG)
    transformers.utils.logging.set_verbosity_info()
    try:
        with quiet():
            assert logging.getLogger("transformers").level == logging.INFO
    finally:
        log.setLevel(before)
        transformers.utils.logging.set_verbosity(theirs)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({"pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_max_tokens": True}, None),
        ({"pooling_mode": "mean"}, "mean"),
    ],
)
def test_a_sentence_encoder_says_how_it_pools(folder: Path, written: dict[str, object], read: str | None) -> None:
    assert BaseLoader(locate(str(folder))).pooling is None
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(written))
    assert BaseLoader(locate(str(folder))).pooling == read


def test_a_base_without_tokenizer_files_gets_no_made_up_tokenizer(folder: Path) -> None:
    with pytest.raises(BaseError, match=r"the files of a tokenizer are missing: one of tokenizer\.json"):
        load_processor(locate(str(folder)), "text")
    with pytest.raises(BaseError, match=r"an image processor are missing: one of preprocessor_config\.json"):
        load_processor(locate(str(folder)), "image")


def test_processors_are_loaded_from_the_base(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello"]))
    (folder / "preprocessor_config.json").write_text('{"image_processor_type": "ViTImageProcessor"}')
    base = locate(str(folder))
    tokenizer = load_processor(base, "text")
    assert isinstance(tokenizer, BertTokenizer)
    assert tokenizer("hello")["input_ids"] == [2, 5, 3]
    assert type(load_processor(base, "image")).__name__ == "ViTImageProcessorPil"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("family", "default"), [("mobilenet_v1", 0.999), ("mobilenet_v2", 0.8)])
def test_a_dropout_with_which_nothing_learns_is_mended(
    family: str, default: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = rewrite(save(family, tmp_path), classifier_dropout_prob=default)
    with caplog.at_level(logging.WARNING, "regraft"):
        model = BaseLoader(base)("AutoModelForImageClassification", labels=LABELS)
    assert model.get_submodule("dropout").p == 0.2
    assert f"drops {default} of the classifier's inputs" in caplog.text
    caplog.clear()
    asked = BaseLoader(base, dropout=0.9)("AutoModelForImageClassification", labels=LABELS)
    assert asked.get_submodule("dropout").p == 0.9
    chosen = rewrite(tmp_path, classifier_dropout_prob=0.3)
    assert BaseLoader(chosen).config.classifier_dropout_prob == 0.3
    assert caplog.text == ""
