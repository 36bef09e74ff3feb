"""Makes pydantic models from options that are declared as dataclass fields.

Stages, the fake objective and the pruner declare their options once, by `stages.stage.option`, and
do not import pydantic.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Mapping
from functools import cache
from typing import (
    Annotated,
    Any,
    ClassVar,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    create_model,
    model_serializer,
)
from pydantic_core import PydanticCustomError

M = TypeVar("M", bound=BaseModel)
V = TypeVar("V")
GIVEN_LATER = ("name", "facts")  # fields of every stage that are not options


def _whole(value: Any) -> Any:
    """Accept 1e4 as 10000; refuse true and "3", which pydantic would accept as numbers."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise PydanticCustomError("int_type", "")
    return value


def _no_repeats(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Refuse equal values such as 0 and 0.0: they would be one run with one key."""
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"must contain each value once, {value} is there twice")
    return values


# Strict: an integer is allowed (YAML reads `0` as one), but true and "0.1" are not numbers.
Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(_whole)]
Positive = Annotated[Real, Field(gt=0)]
NotNegative = Annotated[Real, Field(ge=0)]
Fraction = Annotated[Real, Field(ge=0, lt=1)]
Count = Annotated[Whole, Field(ge=1)]
Seed = Annotated[Whole, Field(ge=0, lt=2**63)]


class Section(BaseModel):
    """A part of the config: unknown keys are refused, values cannot be changed afterwards."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, arbitrary_types_allowed=True
    )
    later: ClassVar[frozenset[str]] = frozenset()
    """Settings of later versions: left out of the plain values while null, so that older studies
    keep the same values."""

    @model_serializer(mode="wrap")
    def _plain(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        return {k: v for k, v in values.items() if v is not None or k not in self.later}


class OwnConfig(BaseModel):
    """The user's own class or function: `_target_: package.module.name` and its arguments."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True)

    target: Annotated[str, Field(alias="_target_")]

    @property
    def arguments(self) -> dict[str, Any]:
        """The keyword arguments in the config."""
        return dict(self.model_extra or {})


class Options(Section):
    """The options of a class that declares them as dataclass fields, made by `options_of`."""

    builds: ClassVar[type]

    def as_arguments(self) -> dict[str, Any]:
        """Return the options as keyword arguments for `builds`."""
        if not dataclasses.is_dataclass(self.builds):
            return {name: getattr(self, name) for name in list(type(self).model_fields)[1:]}
        return {name: getattr(self, name) for name in _declared(self.builds)}


def _declared(cls: type) -> dict[str, dataclasses.Field[Any]]:
    return {f.name: f for f in dataclasses.fields(cls) if f.init and f.name not in GIVEN_LATER}


def _annotate(annotation: Any, limits: Mapping[str, Any]) -> Any:
    """Return `annotation` with `limits` where they belong, its numbers strict."""
    own = {k: v for k, v in limits.items() if not k.startswith("item_")}
    arguments = get_args(annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        return Union[tuple(_annotate(a, limits) for a in arguments)]  # noqa: UP007  # dynamic
    if get_origin(annotation) is tuple and arguments[-1:] == (...,):
        items = {k.removeprefix("item_"): v for k, v in limits.items() if k.startswith("item_")}
        many: Any = tuple  # mypy takes no annotation made at run time
        many = many[_annotate(arguments[0], items), ...]
        return Annotated[many, Field(**own), AfterValidator(_no_repeats)]
    strict = {float: Real, int: Whole}.get(annotation, annotation)
    return Annotated[strict, Field(**own)] if own and annotation is not type(None) else strict


@cache
def options_of(cls: type, head: str) -> type[Options]:
    """Return the pydantic model of the options that the dataclass `cls` declares.

    `head` is the key that chose the class: "kind", "name" or "target" (written `_target_`).
    """
    hints = get_type_hints(cls)
    alias = "_target_" if head == "target" else None
    made: dict[str, Any] = {head: (str, Field(alias=alias))}
    for name, field in _declared(cls).items():
        limits = {k: v for k, v in field.metadata.items() if k != "doc"}
        default: dict[str, Any] = {}
        if field.default is not dataclasses.MISSING:
            default["default"] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            default["default_factory"] = field.default_factory
        about: Any = Field(description=field.metadata.get("doc"), **default)
        made[name] = (_annotate(hints[name], limits), about)
    model = create_model(f"{cls.__name__}Options", __base__=Options, **made)
    model.builds = cls
    return model


@cache
def signature_of(cls: type, head: str, nested: tuple[str, ...] = ()) -> type[Options]:
    """Return the pydantic model of the arguments that another package's class takes.

    `head` is the key that chose the class; arguments named in `nested` are models or None.
    """
    hints = get_type_hints(cls.__init__)  # type: ignore[misc]  # of this very class
    made: dict[str, Any] = {head: (str, ...)}
    for name, parameter in inspect.signature(cls).parameters.items():
        required = parameter.default is inspect.Parameter.empty
        made[name] = (_annotate(hints[name], {}), ... if required else parameter.default)
    made |= dict.fromkeys(nested, (SerializeAsAny[BaseModel] | None, None))
    model = create_model(f"{cls.__name__}Options", __base__=Options, **made)
    model.builds = cls
    return model
