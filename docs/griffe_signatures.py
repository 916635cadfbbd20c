"""Griffe extension that documents constructors generated at run time.

Griffe reads the source without running it, so it misses those of Flax modules, Flax dataclasses and named tuples.
"""

from typing import Any

import griffe  # pyright: ignore[reportMissingImports]

GENERATED = {"nn.Module", "NamedTuple", "struct.dataclass"}
"""Bases and decorators that generate a constructor from a class's annotated fields."""


class FieldSignatures(griffe.Extension):
    """Add an `__init__` with the fields as parameters to classes whose constructor is generated."""

    def on_class_members(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        names = {str(base) for base in cls.bases} | {str(decorator.value) for decorator in cls.decorators}
        if not GENERATED & names or "__init__" in cls.members:
            return
        fields = [
            griffe.Parameter(
                name,
                annotation=member.annotation,
                kind=griffe.ParameterKind.positional_or_keyword,
                default=member.value,
            )
            for name, member in cls.members.items()
            if isinstance(member, griffe.Attribute) and member.annotation is not None and "property" not in member.labels
        ]
        if fields:
            first = griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)
            cls.set_member("__init__", griffe.Function("__init__", parameters=griffe.Parameters(first, *fields)))
