"""The kinds of variety that a simulated frame can have beyond the plain one, each by its name.

Domain randomisation (Tobin et al., IROS 2017): a network that saw many kinds of frames takes the
real kind for one more. No kind imitates one renderer or one camera.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

Variety: TypeAlias = Literal["light", "paint", "optics", "sensor", "shape", "build", "clearing"]
"""``light``: lamps beside the camera, with cast shadows. ``paint``: fat and gristle as pale as
bone, any amount of blood, gauze. ``optics``: blurred, compressed, badly balanced or missing colour.
``sensor``: depth cameras that smooth, quantise, or see nothing at a slant. ``shape``: scoliosis,
slipped levels, rough bone, swollen joints. ``build``: narrow incisions, thin and obese backs.
``clearing``: bone freed of all its flesh, or hardly of any."""
VARIETIES: tuple[Variety, ...] = get_args(Variety)
"""All kinds."""
