"""Filter of GPUs by product name and compute capability: `requires(gpus=1, gpu="H100|A100", gpu_capability=">=8.0")`.

Names are compared by whole words, so that `A10` is no A100, and not by a regular expression: other users' filters are
matched in this process while it decides, and an expression may take for ever.
"""

import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

_WORD = re.compile(r"[\w*]+")
_COMPARISON = re.compile(r"\s*(>=|<=|==|>|<|)\s*(\d{1,3})(?:\.(\d{1,3}))?\s*")
_OPERATORS: dict[str, Callable[[tuple[int, int], tuple[int, int]], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True)
class GpuFilter:
    """Conditions on a GPU; empty ones hold for every GPU.

    Attributes:
        name: Alternatives joined by `|`: words of the product name in any order and case; `*` is any part of a word.
        capability: Comparisons with the compute capability joined by `,`: `">=8.0"`, `">=7.5,<9"`.

    Raises:
        ValueError: if one of them is no such text.
    """

    name: str = ""
    capability: str = ""

    def __post_init__(self) -> None:
        if self.name and not all(_words(option.replace("*", "")) for option in self.name.split("|")):
            raise ValueError('words of product names, alternatives joined by "|", such as "H100|A100 80GB"')
        tuple(self._comparisons())

    def __bool__(self) -> bool:
        return bool(self.name or self.capability)

    def accepts(self, name: str, capability: str) -> bool:
        """Return whether a GPU of that product name and compute capability (`"8.6"`; empty if unknown) will do."""
        if self.name and not any(_has_words(name, option) for option in self.name.split("|")):
            return False
        if not self.capability:
            return True
        major, _, minor = capability.partition(".")
        # An unknown capability is not the one that the program was compiled for.
        return major.isdigit() and all(
            compare((int(major), int(minor or 0)), bound) for compare, bound in self._comparisons()
        )

    def describe(self) -> str:
        """Return a text for people: `"H100|A100 of compute capability >=8.0"`."""
        return " of ".join(filter(None, [self.name, self.capability and f"compute capability {self.capability}"]))

    def _comparisons(self) -> Iterator[tuple[Callable[[tuple[int, int], tuple[int, int]], bool], tuple[int, int]]]:
        for text in self.capability.split(",") if self.capability else ():
            found = _COMPARISON.fullmatch(text)
            if found is None:
                raise ValueError('comparisons with a compute capability, such as ">=8.0" or ">=7.5,<9"')
            yield _OPERATORS[found[1] or "=="], (int(found[2]), int(found[3] or 0))


def _has_words(name: str, option: str) -> bool:
    words = _words(name)
    return all(any(fnmatchcase(word, wanted) for word in words) for wanted in _words(option))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
