"""How the command line reads options of e2r's own types."""

from __future__ import annotations

import tyro

from e2r.runtime.registry import PluginName

OPTION_TYPES = tyro.constructors.ConstructorRegistry()
"""For ``tyro.cli``: a plug-in is given by its name."""


@OPTION_TYPES.primitive_rule
def plugin_rule(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec[PluginName] | None:
    """Reads a plug-in's name; None for other types."""
    if info.type != PluginName:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="NAME",
        instance_from_str=lambda words: words[0],
        is_instance=lambda value: isinstance(value, str),
        str_from_instance=lambda value: [str(value)],
    )
