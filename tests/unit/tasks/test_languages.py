"""Tokenizers with languages, and sentencepiece files: inputs, the decoder's start tokens, and files of exports."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
import transformers as hf

from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.adapted import Adapted
from regraft.bases.load import load_processor
from regraft.bases.locate import Base, locate, processor_files
from regraft.contracts import Method, Row, Task
from regraft.errors import Unsupported

ENGLISH = ["a red lamp is on the table", "the old cloud", "why is the light off ? please help", "two men walk"]
GERMAN = ["eine rote Lampe steht auf dem Tisch", "die alte Wolke", "warum ist das Licht aus ?", "zwei Männer gehen"]
LANGUAGES = {
    "mbart": ("en_XX", "de_DE"),
    "mbart50": ("en_XX", "de_DE"),
    "nllb": ("eng_Latn", "deu_Latn"),
    "m2m100": ("en", "de"),
}
BEGINNINGS = {
    "mbart": ["de_DE"],
    "mbart50": ["</s>", "de_DE"],
    "nllb": ["</s>", "deu_Latn"],
    "m2m100": ["</s>", "__de__"],
}
READ = {"mbart": ["</s>", "en_XX"], "mbart50": ["</s>"], "nllb": ["</s>"], "m2m100": ["</s>"]}
"""How each tokenizer ends what the encoder reads."""


def pieces(texts: list[str], most: int) -> tuple[bytes, list[str]]:
    """Return a sentencepiece model trained on the texts, and its pieces without the special ones."""
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts * 5), model_writer=file, vocab_size=most, minloglevel=2, hard_vocab_limit=False
    )
    model = sentencepiece.SentencePieceProcessor(model_proto=file.getvalue())
    return file.getvalue(), [model.id_to_piece(number) for number in range(3, model.get_piece_size())]


def marian(folder: Path) -> Any:
    """Return two sentencepiece files over one vocabulary, as Marian's translators have them."""
    known = []
    for name, texts in (("source", ENGLISH), ("target", GERMAN)):
        model, found = pieces(texts, 60)
        (folder / f"{name}.spm").write_bytes(model)
        known += found
    words = list(dict.fromkeys(["</s>", "<unk>", *known, "<pad>"]))
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    files = [str(folder / name) for name in ("source.spm", "target.spm", "vocab.json")]
    return hf.MarianTokenizer(*files, source_lang="en", target_lang="de")


def m2m100(folder: Path) -> Any:
    model, known = pieces(ENGLISH + GERMAN, 110)
    (folder / "pieces.model").write_bytes(model)
    words = ["<s>", "<pad>", "</s>", "<unk>", *known]
    (folder / "words.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    return hf.M2M100Tokenizer(str(folder / "words.json"), str(folder / "pieces.model"))


def unigrams(family: Callable[..., Any]) -> Any:
    words = ["<s>", "<pad>", "</s>", "<unk>", *pieces(ENGLISH + GERMAN, 110)[1]]
    if family is hf.NllbTokenizer:
        return family(vocab={word: number for number, word in enumerate(words)}, merges=[])
    return family(vocab=[(word, -float(number)) for number, word in enumerate(words)])


def base(folder: Path, kind: str) -> Base:
    """Return a model of the family with random weights that are large enough to generate different words."""
    scratch, out = folder / "scratch", folder / kind
    scratch.mkdir(parents=True)
    makers: dict[str, Callable[[], Any]] = {
        "marian": lambda: marian(scratch),
        "m2m100": lambda: m2m100(scratch),
        "nllb": lambda: unigrams(hf.NllbTokenizer),
        "mbart": lambda: unigrams(hf.MBartTokenizer),
        "mbart50": lambda: unigrams(hf.MBart50Tokenizer),
    }
    tokenizer = makers[kind]()
    tokenizer.save_pretrained(out)
    sizes: dict[str, Any] = {"d_model": 32, "max_position_embeddings": 64, "init_std": 0.5}
    for side in ("encoder", "decoder"):
        sizes |= {f"{side}_layers": 1, f"{side}_attention_heads": 2, f"{side}_ffn_dim": 48}
    sizes |= {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "vocab_size": 400}
    torch.manual_seed(1)
    if kind == "marian":
        sizes["vocab_size"] = len(tokenizer)  # its target file knows no token beyond
        config = hf.MarianConfig(**sizes, decoder_start_token_id=tokenizer.pad_token_id)
        hf.MarianMTModel(config).save_pretrained(out)
    elif kind in ("nllb", "m2m100"):
        hf.M2M100ForConditionalGeneration(hf.M2M100Config(**sizes, decoder_start_token_id=2)).save_pretrained(out)
    else:
        hf.MBartForConditionalGeneration(hf.MBartConfig(**sizes)).save_pretrained(out)
    shutil.rmtree(scratch)
    return locate(str(out))


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Base]:
    return {kind: base(tmp_path_factory.mktemp(kind), kind) for kind in (*LANGUAGES, "marian")}


def made(base: Base, source: str | None = None, target: str | None = None, *, most: int = 10) -> Adapted:
    fields = {"source_language": source, "target_language": target, "max_target_length": most, "beams": 1}
    task = Task.parse({"type": "translation", **fields})
    assert isinstance(task, Task)
    return adapt(base, Adaptation(task=task, method=Method.lookup("full")(), labels=(), seed=0))


def rows() -> list[Row]:
    return [
        {"row": at, "source": one, "target": [two]} for at, (one, two) in enumerate(zip(ENGLISH, GERMAN, strict=True))
    ]


@pytest.mark.parametrize("kind", LANGUAGES)
def test_languages_stand_where_the_family_puts_them(bases: dict[str, Base], kind: str) -> None:
    adapted = made(bases[kind], *LANGUAGES[kind])
    processor = adapted.context.processor
    example = adapted.task.encode(rows()[1], adapted.context, train=True)
    assert processor.convert_ids_to_tokens(example["input_ids"])[-len(READ[kind]) :] == READ[kind]
    assert ("en" in " ".join(processor.convert_ids_to_tokens(example["input_ids"])[:1])) == (kind != "mbart")
    begins = processor.convert_ids_to_tokens(example["decoder_input_ids"])
    assert begins[: len(BEGINNINGS[kind])] == BEGINNINGS[kind]
    asked = adapted.task.encode({"row": 0, "source": ENGLISH[1]}, adapted.context, train=False)
    assert processor.convert_ids_to_tokens(asked["decoder_input_ids"]) == BEGINNINGS[kind]


@pytest.mark.parametrize("kind", [*LANGUAGES, "marian"])
def test_what_is_written_begins_as_targets_do_and_goes_on_by_the_likeliest_tokens(
    bases: dict[str, Base], kind: str
) -> None:
    adapted = made(bases[kind], *LANGUAGES.get(kind, ()))
    task, context = adapted.task, adapted.context
    adapted.model.generation_config.forced_eos_token_id = context.config.eos_token_id  # type: ignore[union-attr]
    together = task.collate([task.encode(row, context, train=False) for row in rows()], context)
    with torch.inference_mode():
        texts = task.predict_forward(adapted.forward, adapted.model, together, context)
    for row, text in zip(rows(), texts, strict=True):
        batch = task.collate([task.encode({"row": 0, "source": row["source"]}, context, train=False)], context)
        while batch["decoder_input_ids"].shape[1] < 10:  # the start token and 9 more; the 10th is forced to be the end
            with torch.no_grad():
                best = adapted.forward(batch).logits[:, -1].argmax(-1, keepdim=True)
            batch["decoder_input_ids"] = torch.cat([batch["decoder_input_ids"], best], dim=1)
            if best.item() == context.config.eos_token_id:
                break
        assert context.processor.decode(batch["decoder_input_ids"][0], skip_special_tokens=True).strip() == text


@pytest.mark.parametrize("kind", LANGUAGES)
def test_an_export_begins_in_the_right_language_by_itself(bases: dict[str, Base], kind: str, tmp_path: Path) -> None:
    adapted = made(bases[kind], *LANGUAGES[kind])
    adapted.model.save_pretrained(tmp_path / "out")  # type: ignore[operator]
    settings = hf.GenerationConfig.from_pretrained(tmp_path / "out")
    ids = [settings.decoder_start_token_id, settings.forced_bos_token_id]
    names = adapted.context.processor.convert_ids_to_tokens([number for number in ids if number is not None])
    assert names == BEGINNINGS[kind]


@pytest.mark.parametrize("kind", LANGUAGES)
def test_languages_must_be_named_and_known(bases: dict[str, Base], kind: str) -> None:
    source, target = LANGUAGES[kind]
    with pytest.raises(Unsupported, match=r"task.target_language: .*source_language and target_language"):
        made(bases[kind], source)
    with pytest.raises(Unsupported, match=r"task.source_language: 'the' is written; .*Nearest: "):
        made(bases[kind], "the", target)
    with pytest.raises(Unsupported, match=rf"task.target_language: '{target}x' is written; .*{target}"):
        made(bases[kind], source, f"{target}x")


@pytest.mark.parametrize("kind", [*LANGUAGES, "marian"])
def test_the_files_that_travel_with_a_version_are_the_whole_tokenizer(
    bases: dict[str, Base], kind: str, tmp_path: Path
) -> None:
    for file in [*processor_files(bases[kind]), bases[kind].path / "config.json"]:
        shutil.copy(file, tmp_path)
    alone = load_processor(Base("alone", tmp_path, "", ""), "text")
    whole = load_processor(bases[kind], "text")
    for tokenizer in (alone, whole):
        if kind in LANGUAGES:
            tokenizer.src_lang, tokenizer.tgt_lang = LANGUAGES[kind]
    for text in ENGLISH + GERMAN:
        assert alone(text)["input_ids"] == whole(text)["input_ids"]
        assert alone(text_target=text)["input_ids"] == whole(text_target=text)["input_ids"]


def test_marians_targets_are_split_by_the_target_languages_own_file(bases: dict[str, Base]) -> None:
    adapted = made(bases["marian"], most=40)
    ids = adapted.task.encode(rows()[0], adapted.context, train=True)["labels"]["targets"]
    assert ids.tolist() != adapted.context.processor(GERMAN[0])["input_ids"]
    assert adapted.context.processor.decode(ids, skip_special_tokens=True) == GERMAN[0]
