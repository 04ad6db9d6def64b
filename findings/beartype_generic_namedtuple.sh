#!/usr/bin/env bash
# beartype 0.23.1 refuses every function whose annotation is a generic NamedTuple.
#
# Expected: `class Saved(NamedTuple, Generic[T])` is valid since Python 3.11, so a function that
#   returns `Saved` or `Saved[int]` is decorated, as one that returns a plain NamedTuple is.
# Seen: the decorator raises BeartypeDecorHintPepUnsupportedException, "unsupported but erroneously
#   detected as supported under beartype sign HintSign('NamedTuple')", with and without the subscript.
# Who meets it: everyone who checks a package's shapes by jaxtyping's import hook with beartype; one
#   such annotation stops the import. A frozen generic dataclass in its place is accepted.
# Run: bash findings/beartype_generic_namedtuple.sh    (exit code 0 while it is so)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check beartype==0.23.1
cat > "$folder/check.py" <<'PY'
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from beartype import beartype
from beartype.roar import BeartypeDecorHintPepUnsupportedException

T = TypeVar("T")


class Saved(NamedTuple, Generic[T]):
    step: int
    state: T


@dataclass(frozen=True)
class Kept(Generic[T]):
    step: int
    state: T


class Plain(NamedTuple):
    step: int


@beartype
def plain() -> Plain:
    return Plain(1)


@beartype
def frozen() -> Kept[int]:
    return Kept(1, 2)


assert plain().step == frozen().step == 1
def returns(annotation):
    def function():
        return Saved(1, 2)

    function.__annotations__["return"] = annotation
    return beartype(function)


for annotation in (Saved, Saved[int]):
    try:
        returns(annotation)
    except BeartypeDecorHintPepUnsupportedException as error:
        print("as described:", str(error)[-120:])
    else:
        raise SystemExit(f"changed: {annotation} is accepted now")
PY
"$folder/venv/bin/python" "$folder/check.py"
