"""Prose of the source: sentences open with a noun or a verb, and clauses without a head are rare."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import prefect_slots

SOURCE = Path(prefect_slots.__file__).parent
OPENINGS = re.compile(r"#?\s*(what|who|whoever|whether|whose|whom)\b", re.IGNORECASE)
HEADLESS = re.compile(r"\b(what|who|whoever|whatever|whose|whom)\b", re.IGNORECASE)
# Codebases that read easily have 0 to 2 in 1,000 words; a few are plain English.
MOST_IN_A_THOUSAND_WORDS = 4


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for each in node.body:
                match each:
                    case ast.Expr(value=ast.Constant(value=str(words))):
                        yield each.lineno, words
                    case _:
                        pass


def comments(text: str) -> Iterator[tuple[int, str]]:
    """Blocks of comments: a line that goes on with the sentence of the line before opens nothing."""
    last, block = -1, ""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            if token.start[0] != last + 1:
                if block:
                    yield last, block
                block = ""
            last, block = token.start[0], f"{block} {token.string.lstrip('# ')}"
    if block:
        yield last, block


def prose() -> Iterator[tuple[str, str]]:
    for file in sorted(SOURCE.rglob("*.py")):
        text = file.read_text()
        for line, words in (*docstrings(ast.parse(text)), *comments(text)):
            yield f"{file.relative_to(SOURCE)}:{line}", words


def test_no_docstring_or_comment_opens_with_a_clause_without_a_head():
    assert [(place, words[:60]) for place, words in prose() if OPENINGS.match(words)] == []


def test_clauses_without_a_head_are_rare():
    everything = [words for _, words in prose()]
    number = sum(len(HEADLESS.findall(words)) for words in everything)
    words = sum(len(words.split()) for words in everything)
    assert 1000 * number / words <= MOST_IN_A_THOUSAND_WORDS
