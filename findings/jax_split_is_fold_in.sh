#!/usr/bin/env bash
# jax 0.10.2: child i of split(key, n) is the very key that fold_in(key, i) gives.
#
# Expected: split and fold_in are two ways to new keys, so code may use both on one key: a function
#   that splits its key, and a caller that folds a small number into the same key.
# Seen: with the default threefry keys (partitionable since jax 0.5), split(key, 8)[i] equals
#   fold_in(key, i) for each i below 8, and split(key, 2) is the beginning of split(key, 8). So both
#   draw the same numbers. Even shapes do not tell them apart: noise of shape (4, 5) is the first 20
#   values of noise of shape (4, 5, 3). It holds for rbg keys, not for unsafe_rbg keys, nor with
#   jax_threefry_partitionable off, as it was by default before. Neither function's page says so.
# Who meets it: simulators and training loops that fold in numbers and split, in different functions.
#   In one of ours, the noise of a picture's depth was the noise of its colour. Fold in numbers
#   from the largest split on, or use one of both alone.
# Run: bash findings/jax_split_is_fold_in.sh    (exit code 0 while it is so)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2
cat > "$folder/check.py" <<'PY'
import jax
import numpy as np
from jax import random


def data(key):
    return np.asarray(random.key_data(key))


def same(key):
    return [bool((data(child) == data(random.fold_in(key, i))).all())
            for i, child in enumerate(random.split(key, 8))]


key = random.key(7)
found = {"threefry, the default": same(key)}
with jax.threefry_partitionable(False):
    found["threefry, not partitionable"] = same(key)
for kind in ("rbg", "unsafe_rbg"):
    found[kind] = same(random.key(7, impl=kind))
print(jax.__version__, {name: all(equal) for name, equal in found.items()})
depth = random.normal(random.split(key, 8)[1], (4, 5))
colour = random.normal(random.fold_in(key, 1), (4, 5, 3))
begins = bool((np.ravel(depth) == np.ravel(colour)[:20]).all())
print("the noise of the depth begins that of the colour:", begins)
as_described = (
    all(found["threefry, the default"])
    and not any(found["threefry, not partitionable"])
    and all(found["rbg"])
    and not any(found["unsafe_rbg"])
    and begins
    and bool((data(random.split(key, 2)) == data(random.split(key, 8))[:2]).all())
)
if not as_described:
    raise SystemExit(f"changed: {found}")
PY
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/check.py"
