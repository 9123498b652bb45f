"""A base's vectors equal those of its own library, whatever the other rows are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer

from regraft.bases.locate import locate
from regraft.errors import DataError, Unsupported
from regraft.serving import encoder as encoder_module
from regraft.serving.batch import session
from regraft.serving.batch.session import BatchRequest, predict_here
from regraft.serving.encoder import Encoder, chosen_dtype, recipe_of
from regraft.serving.predictor import Predictor
from support.image_bases import tiny_mobilenet, tiny_resnet
from support.language_models import tiny_language
from support.tiny import WORDS, tiny_bert
from support.translators import translator
from unit.serving import tiny

CPU = torch.device("cpu")
TEXTS = [" ".join(WORDS[(7 * number + step) % len(WORDS)] for step in range(1 + number % 13)) for number in range(29)]
TEXTS += ["", "  the   lamp ", "UNHEARD of Words!", " ".join(WORDS * 3)]


def sentence_encoder(folder: Path, *, pooling: str = "mean", modules: tuple[str, ...] = (), **settings: Any) -> Path:
    """Write a tiny BERT in the layout of sentence-transformers."""
    tiny_bert(folder, pooling=pooling)
    names = ["Transformer", "Pooling", *modules]
    listed = [
        {"idx": place, "name": str(place), "path": f"{place}_{name}" if place else "", "type": f"models.{name}"}
        for place, name in enumerate(names)
    ]
    for module in listed:
        module["type"] = f"sentence_transformers.{module['type']}"
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 20, "do_lower_case": False}))
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    return folder


def vectors(encoder: Encoder, texts: list[str]) -> np.ndarray[Any, Any]:
    found = encoder.vectors([{"text": text} for text in texts])
    assert all(isinstance(vector, np.ndarray) and vector.dtype == np.float32 for vector in found)
    return np.stack([vector for vector in found if not isinstance(vector, DataError)])


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("modules", [(), ("Normalize",)], ids=["as-they-are", "normalised"])
def test_a_sentence_encoder_gives_the_vectors_of_its_library(
    pooling: str, modules: tuple[str, ...], tmp_path: Path
) -> None:
    folder = sentence_encoder(tmp_path / "base", pooling=pooling, modules=modules)
    wanted = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, show_progress_bar=False)
    encoder = Encoder(locate(str(folder)), device=CPU)
    np.testing.assert_allclose(vectors(encoder, TEXTS), wanted, rtol=0, atol=1e-5)
    assert encoder.recipe.max_length == 20 and encoder.recipe.normalize == bool(modules)


def test_the_prompt_that_a_sentence_encoder_begins_with_is_put_before_each_text(tmp_path: Path) -> None:
    settings = {"prompts": {"query": "please help "}, "default_prompt_name": "query"}
    folder = sentence_encoder(tmp_path / "base", **settings)
    wanted = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, show_progress_bar=False)
    np.testing.assert_allclose(vectors(Encoder(locate(str(folder)), device=CPU), TEXTS), wanted, rtol=0, atol=1e-5)


def test_a_vector_does_not_depend_on_its_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder(locate(str(tiny_bert(tmp_path / "base"))), device=CPU)
    alone = np.concatenate([vectors(encoder, [text]) for text in TEXTS])
    np.testing.assert_allclose(vectors(encoder, TEXTS), alone, rtol=0, atol=1e-5)
    monkeypatch.setattr(encoder_module, "TOKENS_PER_THREAD", 16)
    np.testing.assert_allclose(vectors(encoder, TEXTS), alone, rtol=0, atol=1e-5)


def test_batches_hold_every_row_once_within_the_budget() -> None:
    lengths = [5, 1, 9, 2, 2, 30, 4, 4, 4, 7]
    batches = list(encoder_module._budgeted(lengths, 12))
    assert sorted(place for batch in batches for place in batch) == list(range(10))
    assert all(len(batch) == 1 or len(batch) * max(lengths[place] for place in batch) <= 12 for batch in batches)


def test_a_base_that_says_nothing_gives_its_pooler_and_without_one_its_first_token(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "base", pooling=None)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(TEXTS[3], return_tensors="pt")
    with torch.inference_mode():
        output = model(**tokens)
    encoder = Encoder(locate(str(folder)), device=CPU)
    assert encoder.pooling == "pooler"
    np.testing.assert_allclose(vectors(encoder, TEXTS[3:4]), output.pooler_output, rtol=0, atol=1e-5)
    transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).save_pretrained(folder)
    encoder = Encoder(locate(str(folder)), device=CPU)
    assert encoder.pooling == "cls"
    np.testing.assert_allclose(vectors(encoder, TEXTS[3:4]), output.last_hidden_state[:, 0], rtol=0, atol=1e-5)


def test_a_decoder_gives_its_last_token_and_an_encoder_decoder_the_mean_of_its_encoder(tmp_path: Path) -> None:
    tiny_language(tmp_path / "writer", "llama")
    encoder = Encoder(locate(str(tmp_path / "writer")), device=CPU)
    assert encoder.pooling == "last"
    model = transformers.AutoModel.from_pretrained(tmp_path / "writer").eval()
    ids = transformers.AutoTokenizer.from_pretrained(tmp_path / "writer")("ab cd", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        wanted = model(input_ids=ids).last_hidden_state[:, -1]
    np.testing.assert_allclose(vectors(encoder, ["ab cd", "a longer text beside"])[:1], wanted, rtol=0, atol=1e-5)
    translator(tmp_path / "speaker", "t5", TEXTS)
    encoder = Encoder(locate(str(tmp_path / "speaker")), device=CPU)
    assert encoder.pooling == "mean" and vectors(encoder, TEXTS[:5]).shape == (5, 32)


@pytest.mark.parametrize("make", [tiny_mobilenet, tiny_resnet, tiny.yolos], ids=lambda make: make.__name__)
def test_an_image_base_gives_its_pooled_output(
    make: Any, pictures: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = locate(str(make(tmp_path / "base")))
    encoder = Encoder(base, device=CPU)
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path(pictures[0]).read_bytes()[:-150])
    rows = [{"image": path} for path in (*pictures, str(broken), Path(pictures[1]).read_bytes())]
    found = encoder.vectors(rows)
    assert isinstance(found[4], DataError) and found[1].ndim == 1  # type: ignore[union-attr]
    assert np.allclose(found[1], found[5], atol=1e-6)  # type: ignore[arg-type]
    alone = encoder.vectors(rows[2:3])[0]
    assert np.allclose(found[2], alone, atol=1e-5)  # type: ignore[arg-type]
    assert not np.allclose(found[0], found[2])  # type: ignore[arg-type]
    for name, few in (("IMAGES", 2), ("MAX_HELD", 1)):
        monkeypatch.setattr(encoder_module, name, few)
        for one, other in zip(encoder.vectors(rows), found, strict=True):
            assert isinstance(one, DataError) or np.allclose(one, other, atol=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("modules.json", [{"type": "sentence_transformers.models.Dense"}], "names Dense; features are made by"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pools by max_tokens; allowed are mean and cls"),
        ("1_Pooling/config.json", {"pooling_mode_mean_tokens": True, "include_prompt": False}, "without the prompt"),
        ("preprocessor_config.json", {}, "reads text and image; features come from bases that read one medium"),
    ],
)
def test_what_would_come_out_otherwise_is_refused(file: str, content: Any, message: str, tmp_path: Path) -> None:
    folder = sentence_encoder(tmp_path / "base")
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(Unsupported, match=message):
        recipe_of(locate(str(folder)))


ROWS = [{"text": text} for text in TEXTS]


def test_auto_takes_bf16_only_where_it_is_native_quicker_and_agrees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = locate(str(tiny_bert(tmp_path / "base")))
    pace = {torch.float32: 2.0, torch.bfloat16: 1.0}
    turned = {torch.float32: 0.0, torch.bfloat16: 0.0}

    def timed(encoder: Encoder, rows: Any) -> Any:
        dtype = next(encoder._model.parameters()).dtype
        angle = turned[dtype]
        return [np.array([np.cos(angle), np.sin(angle)], np.float32)] * len(rows), pace[dtype]

    monkeypatch.setattr(encoder_module, "_timed", timed)
    monkeypatch.setattr(encoder_module, "has_bf16", lambda device: True)
    assert chosen_dtype(base, ROWS, device=CPU)["dtype"] == "bf16"
    turned[torch.bfloat16] = 0.1
    assert chosen_dtype(base, ROWS, device=CPU) == {"dtype": "fp32", "why": "bf16 turns a vector to a cosine of 0.9950"}
    turned[torch.bfloat16], pace[torch.bfloat16] = 0.0, 3.0
    assert chosen_dtype(base, ROWS, device=CPU)["dtype"] == "fp32"
    pace[torch.bfloat16] = 1.0
    monkeypatch.setattr(encoder_module, "has_bf16", lambda device: False)
    assert chosen_dtype(base, ROWS, device=CPU)["dtype"] == "fp32"


def test_auto_is_measured_once_and_only_where_it_pays(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_bert(tmp_path / "base")
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    measured: list[int] = []

    def chosen(base: Any, rows: Any, *, device: Any) -> dict[str, str]:
        measured.append(len(rows))
        return {"dtype": "bf16", "why": "so"}

    monkeypatch.setattr(session, "chosen_dtype", chosen)
    exact = asked(str(tmp_path / "base"), tmp_path, store, dtype="fp32")
    assert asked(str(tmp_path / "base"), tmp_path, store, dtype="auto").equals(exact) and not measured
    monkeypatch.setattr(session, "WORTH_MEASURING", 10)
    assert not asked(str(tmp_path / "base"), tmp_path, store, dtype="auto").equals(exact)
    assert measured == [8]


def test_bf16_agrees_with_fp32(tmp_path: Path) -> None:
    base = locate(str(tiny_bert(tmp_path / "base")))
    exact, quick = (vectors(Encoder(base, device=CPU, dtype=dtype), TEXTS) for dtype in ("fp32", "bf16"))  # type: ignore[arg-type]
    cosines = (exact * quick).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(quick, axis=1)
    assert cosines.min() > 0.999 and not np.array_equal(exact, quick)


def asked(model: str, folder: Path, store: Path, **more: Any) -> Any:
    out = str(folder / f"{len(list(folder.glob('*.parquet')))}.parquet")
    options: dict[str, Any] = {"features": True, "block_rows": 8, "device": "cpu", **more}
    return pq.read_table(predict_here(BatchRequest(model, str(folder / "in.jsonl"), out, str(store), **options)).out)


def test_a_file_of_vectors_has_a_row_for_every_row(tmp_path: Path, store: Path) -> None:
    folder = sentence_encoder(tmp_path / "base")
    lines = [json.dumps(row) + "\n" for row in ROWS]
    lines[11] = '{"text": 3}\n'
    (tmp_path / "in.jsonl").write_text("".join(lines))
    table = asked(str(folder), tmp_path, store, bad_rows="skip")
    assert table["row"].to_pylist() == list(range(len(ROWS)))
    assert str(table.schema.field("features").type) == "fixed_size_list<element: float>[32]"
    assert [row for row, value in enumerate(table["features"].to_pylist()) if value is None] == [11]
    assert "in.jsonl:12" in table["error"][11].as_py()
    wanted = vectors(Encoder(locate(str(folder)), device=CPU), TEXTS)
    kept = [row for row in range(len(ROWS)) if row != 11]
    found = np.array([table["features"][row].as_py() for row in kept])
    np.testing.assert_allclose(found, wanted[kept], rtol=0, atol=1e-5)


def test_a_model_gives_what_its_head_sees(tmp_path: Path, store: Path) -> None:
    _, adapted = tiny.publish(store, tiny_bert(tmp_path / "base"), "text-classification", "full")
    rows = ROWS[:20]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = asked("tiny", tmp_path, store)
    assert table.column_names == ["row", "features"]
    predictor = Predictor.open(str(store), "tiny", device="cpu")
    head = predictor.adapted.linear_head()
    logits = torch.tensor(table["features"].to_pylist()) @ head.weight.T + head.bias
    torch.testing.assert_close(logits, predictor.logits(rows), rtol=0, atol=1e-5)
    assert adapted.context.labels == predictor.labels


def test_a_model_without_such_a_head_is_refused_before_any_row(
    pictures: list[str], store: Path, tmp_path: Path
) -> None:
    tiny.publish(store, tiny.yolos(tmp_path / "base"), "object-detection", "full")
    (tmp_path / "in.jsonl").write_text(json.dumps({"image": pictures[0]}) + "\n")
    with pytest.raises(Unsupported, match="head"):
        asked("tiny", tmp_path, store)
