"""Translation: the model's own loss and shift, the same text alone and in a batch, every reference counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from sacrebleu.metrics import BLEU, CHRF
from transformers import LEDConfig, LEDForConditionalGeneration

from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.adapted import Adapted
from regraft.bases.load import BaseLoader
from regraft.bases.locate import locate
from regraft.contracts import Context, Example, Method, Record, Row, Task
from regraft.errors import Unsupported
from regraft.tasks.translation import Translation
from support.translators import tokenizer_for, translator

ROWS: list[Row] = [
    {"row": 0, "source": "a red lamp is on the table", "target": ["eine rote Lampe steht auf dem Tisch"]},
    {"row": 1, "source": "the old cloud", "target": ["die alte Wolke", "eine alte Wolke dort"]},
    {"row": 2, "source": "why is the light off ? please help", "target": ["warum ist das Licht aus ? bitte hilf mir"]},
    {"row": 3, "source": "two men walk", "target": ["zwei Männer gehen"]},
]
TEXTS = [text for row in ROWS for text in (row["source"], *row["target"])]
FAMILIES = ("t5", "bart", "marian")


def made(folder: Path, method: Any = "full", **fields: Any) -> Adapted:
    task, how = Task.parse({"type": "translation", "max_target_length": 14, **fields}), Method.parse(method)
    assert isinstance(task, Task) and isinstance(how, Method)
    return adapt(locate(str(folder)), Adaptation(task=task, method=how, labels=(), seed=0))


def shaken(folder: Path, **fields: Any) -> Adapted:
    """Return the model with weights at which it generates texts of several words that differ between rows."""
    adapted = made(folder, **fields)
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in adapted.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.4 * torch.randn(parameter.shape, generator=generator))
    return adapted


def encoded(adapted: Adapted, rows: Sequence[Row] = ROWS) -> list[Example]:
    return [adapted.task.encode(row, adapted.context, train=False) for row in rows]


def examined(adapted: Adapted, rows: Sequence[Row] = ROWS) -> list[Record]:
    batch = adapted.task.collate(encoded(adapted, rows), adapted.context)
    with torch.inference_mode():
        output = adapted.task.eval_forward(adapted.forward, adapted.model, batch, adapted.context)
    return adapted.task.records(output, batch, adapted.context)


def answered(adapted: Adapted, rows: Sequence[Row]) -> list[str]:
    asked = [{name: value for name, value in row.items() if name != "target"} for row in rows]
    batch = adapted.task.collate(encoded(adapted, asked), adapted.context)
    with torch.inference_mode():
        output = adapted.task.predict_forward(adapted.forward, adapted.model, batch, adapted.context)
    answers = adapted.task.answers(output, batch, adapted.context)
    assert all(set(answer) == {"translation_text"} for answer in answers)
    return [answer["translation_text"] for answer in answers]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {family: translator(root / family, family, TEXTS) for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_the_models_own_however_rows_are_split(folders: dict[str, Path], family: str) -> None:
    adapted = shaken(folders[family])
    examples = encoded(adapted)
    together = adapted.task.collate(examples, adapted.context)
    targets = [item["targets"] for item in together["labels"]]
    labels = torch.nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=-100)
    inputs = {name: together[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        own = adapted.model(**inputs, labels=labels).loss.item()
    for cuts in ([0, 4], [0, 1, 4], [0, 1, 2, 3, 4]):
        parts = []
        for start, end in pairwise(cuts):
            batch = adapted.task.collate(examples[start:end], adapted.context)
            with torch.no_grad():
                parts.append(adapted.task.loss(adapted.forward(batch), batch, adapted.context))
        total, weight = sum(float(part[0]) for part in parts), sum(float(part[1]) for part in parts)
        assert weight == sum(map(len, targets))
        assert total / weight == pytest.approx(own, rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_decoder_reads_what_the_model_itself_would_make_of_the_target(
    folders: dict[str, Path], family: str
) -> None:
    adapted = made(folders[family])
    for example in encoded(adapted):
        own = adapted.model.prepare_decoder_input_ids_from_labels(labels=example["labels"]["targets"][None])  # type: ignore[operator]
        assert [example["decoder_input_ids"]] == own.tolist()


def test_the_reported_loss_is_the_smoothed_one_that_is_minimised(folders: dict[str, Path]) -> None:
    adapted = shaken(folders["t5"])
    context = Context(adapted.context.processor, (), adapted.context.config, None, 0.1)
    adapted.context = context
    batch = adapted.task.collate(encoded(adapted), context)
    with torch.no_grad():
        logits = adapted.forward(batch).logits
        total, weight = adapted.task.loss(adapted.forward(batch), batch, context)
    wanted = torch.nn.CrossEntropyLoss(label_smoothing=0.1)(
        torch.cat([row[: len(item["targets"])] for row, item in zip(logits, batch["labels"], strict=True)]),
        torch.cat([item["targets"] for item in batch["labels"]]),
    )
    assert (total / weight).item() == pytest.approx(wanted.item(), rel=1e-5)
    assert adapted.task.metrics(examined(adapted), context)["loss"] == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("beams", [1, 3])
def test_a_row_alone_is_translated_as_in_a_batch(folders: dict[str, Path], family: str, beams: int) -> None:
    adapted = shaken(folders[family], beams=beams)
    together = answered(adapted, ROWS)
    assert len(set(together)) > 1
    assert [answered(adapted, [row])[0] for row in ROWS] == together


@pytest.mark.parametrize("family", FAMILIES)
def test_remembered_keys_and_values_change_no_text(folders: dict[str, Path], family: str) -> None:
    adapted = shaken(folders[family])
    with_cache = answered(adapted, ROWS)
    settings: Any = adapted.model.generation_config
    assert settings.use_cache
    settings.use_cache = False
    assert answered(adapted, ROWS) == with_cache
    assert len(set(with_cache)) > 1


@pytest.mark.parametrize("family", FAMILIES)
def test_the_written_text_is_what_single_steps_of_the_model_prefer(folders: dict[str, Path], family: str) -> None:
    """Greedy decoding by hand, from the decoder's inputs in training: both must start and continue alike."""
    adapted = shaken(folders[family])
    adapted.model.generation_config.forced_eos_token_id = 1  # type: ignore[union-attr]
    for row, text in zip(ROWS, answered(adapted, ROWS), strict=True):
        example = adapted.task.encode({"row": 0, "source": row["source"]}, adapted.context, train=False)
        batch = adapted.task.collate([example], adapted.context)
        while batch["decoder_input_ids"].shape[1] < 14:  # the start token and 13 more; the 14th is forced to be the end
            with torch.no_grad():
                best = adapted.forward(batch).logits[:, -1].argmax(-1, keepdim=True)
            batch["decoder_input_ids"] = torch.cat([batch["decoder_input_ids"], best], dim=1)
            if best.item() == 1:
                break
        assert adapted.context.processor.decode(batch["decoder_input_ids"][0], skip_special_tokens=True).strip() == text


def test_texts_are_written_for_the_first_rows_only_where_a_field_says_so(folders: dict[str, Path]) -> None:
    adapted, every = shaken(folders["t5"], eval_samples=2), shaken(folders["t5"])
    shuffled = [ROWS[3], ROWS[1], ROWS[2], ROWS[0]]
    some = examined(adapted, shuffled)
    assert [record["text"] is None for record in some] == [True, False, True, False]
    whole = examined(every, shuffled)
    assert some[1] == whole[1] and some[3] == whole[3]
    found, wanted = adapted.task.metrics(some, adapted.context), every.task.metrics(whole, every.context)
    assert found["loss"] == wanted["loss"] and (found["written"], wanted["written"]) == (0.5, 1.0)
    assert found["chrf"] == every.task.metrics([whole[1], whole[3]], every.context)["chrf"]
    none = examined(adapted, [ROWS[2], ROWS[3]])
    assert [record["text"] for record in none] == [None, None]
    assert max(some, key=lambda record: record["error"])["text"] is not None
    assert "2 of 4 rows" in adapted.task.findings(some, adapted.context).tables[0].note


def record(text: str, *references: str, length: int = 5, task: Translation | None = None) -> Record:
    compared = (task or Translation()).compared(text, references)
    return {
        "text": text,
        "references": list(references),
        "length": length,
        "cut": 0,
        "loss": 2.0,
        "weight": 2,
    } | compared


def test_scores_are_sacrebleus_over_rows_with_unequal_numbers_of_references() -> None:
    records = [record("eine rote Lampe auf dem Tisch", "eine rote Lampe steht auf dem Tisch"),
               record("die alte Wolke dort oben", "eine alte Wolke", "die alte Wolke dort oben")]  # fmt: skip
    references = [["eine rote Lampe steht auf dem Tisch", "eine alte Wolke"], [None, "die alte Wolke dort oben"]]
    texts = [item["text"] for item in records]
    found = Translation().scores(records)
    assert found["chrf"] == CHRF().corpus_score(texts, references).score
    assert found["bleu"] == BLEU().corpus_score(texts, references).score
    assert 50 < found["bleu"] < 100


def test_any_of_several_references_is_right() -> None:
    right = record("die alte Wolke dort", "eine andere", "die alte Wolke dort")
    assert right["error"] == pytest.approx(0)
    assert Translation().scores([right]) == {"chrf": pytest.approx(100), "bleu": pytest.approx(100)}
    assert record("ganz anders", "die alte Wolke dort")["error"] > 50


def test_chinese_is_counted_by_characters_where_the_field_says_so() -> None:
    text, reference = "我喜欢红色的灯和旧的云", "我喜欢红色的灯和新的云"
    words, characters = Translation(), Translation(bleu_tokens="zh")
    assert words.scores([record(text, reference)])["bleu"] < 50
    assert characters.scores([record(text, reference, task=characters)])["bleu"] > 50


def test_resampled_rows_of_which_none_was_written_have_no_score() -> None:
    nothing = [record("x", "y") | {"text": None}]
    metrics = Translation().metrics(nothing, None)  # type: ignore[arg-type]
    assert math.isnan(metrics["chrf"]) and metrics["written"] == 0 and metrics["loss"] == 1.0


def test_findings_hold_every_row_once_from_short_to_long() -> None:
    records = [record("die alte Wolke dort", "die alte Wolke hier", length=length) for length in (9, 1, 3, 3, 3, 7, 20)]
    (table,) = Translation().findings(records, None).tables  # type: ignore[arg-type]
    assert table.columns == ("tokens read", "rows", "chrf", "bleu", "loss", "length")
    assert sum(row[1] for row in table.rows) == 7  # type: ignore[misc]
    assert [row[0] for row in table.rows] == ["1 to 3", "7 to 7", "9 to 20"] or len(table.rows) > 2
    assert all(row[-1] == 1.0 and row[-2] == 1.0 for row in table.rows)
    assert Translation().findings([], None).tables[0].rows == ()  # type: ignore[arg-type]


def test_the_first_reference_is_learned_from_and_all_are_kept(folders: dict[str, Path]) -> None:
    adapted = made(folders["bart"])
    example = encoded(adapted)[1]
    assert adapted.context.processor.decode(example["labels"]["targets"], skip_special_tokens=True) == "die alte Wolke"
    assert example["labels"]["references"] == ROWS[1]["target"]


def test_the_prefix_is_read_before_every_text_and_counts_as_length(folders: dict[str, Path]) -> None:
    plain, prefixed = made(folders["t5"]), made(folders["t5"], prefix="please the light: ", max_length=6)
    ids = encoded(prefixed)[1]["input_ids"]
    assert len(ids) == 6 and ids[-1] == 1
    assert prefixed.context.processor.decode(ids, skip_special_tokens=True).startswith("please the light")
    assert [encoded(adapted)[1]["labels"]["cut"] for adapted in (plain, prefixed)] == [0, 1]


def test_fields_become_the_models_generation_settings_and_absent_ones_keep_the_bases(tmp_path: Path) -> None:
    base = translator(tmp_path / "base", "bart", TEXTS)
    own = BaseLoader(locate(str(base)))("AutoModelForSeq2SeqLM")
    settings: Any = own.generation_config
    settings.num_beams, settings.no_repeat_ngram_size, settings.length_penalty, settings.min_length = 4, 3, 2.0, 5
    settings.max_length = 30
    settings.save_pretrained(base)
    kept: Any = made(base).model.generation_config
    assert (kept.num_beams, kept.no_repeat_ngram_size, kept.length_penalty, kept.min_length) == (4, 3, 2.0, 5)
    assert (kept.max_length, kept.max_new_tokens) == (None, 14)
    settings: Any = made(base, beams=1, no_repeat=0, length_penalty=0.5, min_target_length=2).model.generation_config
    assert (settings.num_beams, settings.no_repeat_ngram_size, settings.length_penalty) == (1, 0, 0.5)
    assert (settings.min_length, settings.min_new_tokens) == (None, 2)


def test_beams_change_what_is_written(folders: dict[str, Path]) -> None:
    assert answered(shaken(folders["marian"], beams=1), ROWS) != answered(shaken(folders["marian"], beams=4), ROWS)


def test_no_run_of_tokens_is_written_twice_where_the_field_says_so(folders: dict[str, Path]) -> None:
    adapted = shaken(folders["marian"], no_repeat=1)
    for text in answered(adapted, ROWS):
        pieces = adapted.context.processor.tokenize(text)
        assert len(set(pieces)) == len(pieces) > 5


def test_a_text_has_as_many_tokens_as_the_field_asks_for(folders: dict[str, Path]) -> None:
    for fewest, wanted in ((None, 0), (6, 6)):
        adapted = shaken(folders["marian"], min_target_length=fewest)
        adapted.model.final_logits_bias[0, 1] = 1000.0  # type: ignore[operator]
        ids = adapted.context.processor(answered(adapted, ROWS)[0], add_special_tokens=False)["input_ids"]
        assert (len(ids) > 0) == (wanted > 0)


def test_a_text_to_predict_needs_no_target(folders: dict[str, Path]) -> None:
    adapted = made(folders["bart"])
    batch = adapted.task.collate(encoded(adapted, [{"row": 0, "source": "the old cloud"}]), adapted.context)
    assert batch["decoder_input_ids"].tolist() == [[1, 3]]
    assert adapted.forward(batch).logits.shape[:2] == (1, 2)
    assert adapted.task.target_columns() == {"target"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"source": " ", "target": ["x"]}, "source is empty"),
        ({"source": "a", "target": ["x", "\n"]}, "target is empty"),
        ({"source": "a", "target": ["x"]}, None),
        ({"source": "a"}, None),
    ],
)
def test_empty_texts_are_refused(row: Row, message: str | None) -> None:
    problem = Translation().check(row)
    assert problem is None if message is None else problem and message in problem


def test_more_tokens_than_the_base_can_write_are_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(Unsupported, match=r"task.max_target_length: 129 is written; this base reads 2 to 128"):
        made(folders["bart"], max_target_length=129)


def test_a_language_is_refused_by_a_tokenizer_that_knows_none(folders: dict[str, Path]) -> None:
    with pytest.raises(Unsupported, match=r"task.target_language: 'de' is written; .*knows no languages.*task.prefix"):
        made(folders["t5"], target_language="de")


def test_a_base_that_does_not_say_how_targets_begin_is_refused(tmp_path: Path) -> None:
    base = translator(tmp_path / "base", "t5", TEXTS)
    config = (base / "config.json").read_text().replace('"decoder_start_token_id": 0', '"decoder_start_token_id": null')
    (base / "config.json").write_text(config)
    with pytest.raises(Unsupported, match="decoder_start_token_id"):
        made(base)


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_are_the_encoders_then_the_decoders_layers(folders: dict[str, Path], family: str) -> None:
    blocks = made(folders[family]).anatomy.blocks
    assert [("encoder" in name, "decoder" in name) for name in blocks] == [(True, False)] * 2 + [(False, True)] * 2


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["full", "lora", {"type": "freeze", "depth": 1}, {"type": "freeze", "depth": "50%"}])
def test_a_step_by_any_method_lowers_the_loss(folders: dict[str, Path], family: str, method: Any) -> None:
    adapted = made(folders[family], method)
    batch = adapted.task.collate(encoded(adapted), adapted.context)
    moving = [parameter for parameter in adapted.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(moving, 1e-3)
    losses = []
    for _ in range(6):
        total, weight = adapted.task.loss(adapted.forward(batch), batch, adapted.context)
        losses.append((total / weight).item())
        optimizer.zero_grad()
        (total / weight).backward()  # type: ignore[no-untyped-call]
        assert all(parameter.grad is not None for parameter in moving)
        optimizer.step()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_without_a_head_of_its_own_refuses_to_train_one(folders: dict[str, Path], family: str) -> None:
    with pytest.raises(Unsupported, match=r"method: .*lora, freeze or full"):
        made(folders[family], "feature-extraction")


def test_freezing_all_that_a_base_has_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(Unsupported, match=r"method: freeze is written, which would move nothing"):
        made(folders["bart"], {"type": "freeze", "depth": "all"})


def test_a_longformers_first_token_sees_the_whole_text(tmp_path: Path) -> None:
    sides = {f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    places = {f"max_{side}_position_embeddings": 64 for side in ("encoder", "decoder")}
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 3, "decoder_start_token_id": 1, "vocab_size": 200}
    sizes = {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "attention_window": 4}
    LEDForConditionalGeneration(LEDConfig(**sides, **places, **ids, **sizes)).save_pretrained(tmp_path)
    tokenizer_for("bart", TEXTS, 200).save_pretrained(tmp_path)
    adapted = made(tmp_path)
    assert len(set(answered(adapted, ROWS))) > 0
    batch = adapted.task.collate(encoded(adapted), adapted.context)
    adapted.task.loss(adapted.forward(batch), batch, adapted.context)[0].backward()
    assert all(parameter.grad is not None for parameter in adapted.model.parameters() if parameter.requires_grad)
