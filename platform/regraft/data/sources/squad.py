"""Source of SQuAD's JSON: questions on paragraphs, with the places of their answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from regraft.contracts import Raw, Source
from regraft.data.json_shape import json_shape, open_text
from regraft.errors import DataError


class Squad(Source):
    """SQuAD (Rajpurkar et al., 2016 and 2018): one JSON document of articles, paragraphs and questions.

    The columns are `question`, `context`, `answers` ({text, answer_start}; none where `is_impossible` is true), `id`
    and `title`. Tables and lines that hold the same columns are read by the other sources.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".json", ".json.gz")
    synonyms: ClassVar[frozenset[str]] = frozenset({"squad-v2", "squad2", "squad_v2"})

    def accepts(self, path: Path) -> bool:
        """Accept a .json that holds articles with paragraphs."""
        return super().accepts(path) and json_shape(path) == "questions"

    def read(self, path: Path) -> Iterator[Raw]:
        """Yield a row for each question, by its number in the document, which is read into memory."""
        try:
            with open_text(path) as file:
                document = json.load(file)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(f"is not JSON: {error}", str(path)) from None
        if not isinstance(document, dict) or not isinstance(document.get("data"), list):
            raise DataError("has no list 'data' of articles, as SQuAD has it", str(path))
        number = 0
        for paragraph, title in _paragraphs(document["data"]):
            for question in _listed_in(paragraph, "qas"):
                number += 1
                yield _question_row(question, paragraph, title, f"{path}:{number}")


def _listed_in(inside: object, name: str) -> list[Any]:
    """Return a list inside an object; one entry that is no object where there is none, so that it is a bad row."""
    found = inside.get(name) if isinstance(inside, Mapping) else None
    return found if isinstance(found, list) else [None]


def _paragraphs(articles: list[Any]) -> Iterator[tuple[Any, Any]]:
    for article in articles:
        title = article.get("title") if isinstance(article, Mapping) else None
        yield from ((paragraph, title) for paragraph in _listed_in(article, "paragraphs"))


def _question_row(question: object, paragraph: object, title: object, where: str) -> Raw:
    if not isinstance(question, Mapping) or not isinstance(paragraph, Mapping):
        return Raw({}, where, "is no question of a paragraph: paragraphs: [{context, qas: [{question, answers}]}]")
    where = f"{where} ({question['id']})" if isinstance(question.get("id"), str | int) else where
    values = {name: question[name] for name in ("question", "answers", "id") if name in question}
    values |= {"context": paragraph.get("context"), "title": title}
    if question.get("is_impossible") is True:
        if question.get("answers"):
            return Raw(values, where, "is_impossible is true, and there are answers: remove one of the two")
        values["answers"] = []
    return Raw(values, where)
