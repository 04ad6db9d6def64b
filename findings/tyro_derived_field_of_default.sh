#!/usr/bin/env bash
# tyro 1.0.17: a field that a dataclass derives by itself goes stale where a default is given.
#
# A frozen dataclass computes a field with init=False in __post_init__. tyro.cli(Settings) leaves
# that field alone, and it is right. tyro.cli(Settings, default=Settings()) makes an option of it,
# and writes the default's value over the one that __post_init__ computed. So the result holds a
# derived value of other settings, and no message says so.
#
# Seen with Python 3.11 and tyro 1.0.17:
#   no default:   length 4 (of "four"), and --length is no option
#   with default: length 1 (of "a") beside the text "four"; --length 9 is taken
#
# Exit code: 0 where tyro still behaves so, 1 where it does not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "tyro==1.0.17"
cat > "$folder/derived.py" <<'PYTHON'
import dataclasses
import sys

import tyro


@dataclasses.dataclass(frozen=True)
class Settings:
    text: str = "a"
    length: int = dataclasses.field(init=False, default=0)

    def __post_init__(self):
        object.__setattr__(self, "length", len(self.text))


plain = tyro.cli(Settings, args=["--text", "four"])
with_default = tyro.cli(Settings, default=Settings(), args=["--text", "four"])
given = tyro.cli(Settings, default=Settings(), args=["--length", "9"])
print("no default:  ", plain)
print("with default:", with_default)
print("given:       ", given)
as_stated = (plain.length, with_default.length, given.length) == (4, 1, 9)
print("as stated" if as_stated else "tyro behaves otherwise now")
sys.exit(0 if as_stated else 1)
PYTHON
"$folder/venv/bin/python" "$folder/derived.py"
