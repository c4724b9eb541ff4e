"""Types and shapes of every call, checked once: what jaxtyping's import hook puts about functions.

jaxtyping binds the arguments of each call by inspect, and checks them again beside what is
returned, which takes half the time of a training of small steps. Here each argument meets its
annotation once, and so does the result, in the same scope of axis names. Where something does not
fit, and for annotations that need the arguments by name, jaxtyping's own wrapper decides.
"""

import dataclasses
import functools
import inspect
from typing import Any, NoReturn, get_args, get_type_hints

import jaxtyping
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import AbstractArray, TypeCheckError

by_jaxtyping = jaxtyping.jaxtyped
scope = by_jaxtyping("context")  # of axis names, anew each time that it is entered
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def install():
    """From now on, what is imported is checked here. Before the first import of polyfield."""
    jaxtyping.jaxtyped = jaxtyped


def jaxtyped(function=None, *, typechecker):
    """As jaxtyping's decorator of this name, which the import hook looks up for each definition."""
    if function is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    if inspect.isclass(function):
        if dataclasses.is_dataclass(function) and not hasattr(function.__init__, "checked"):
            function.__init__ = jaxtyped(function.__init__, typechecker=typechecker)
        return function
    return checked(function, by_jaxtyping(typechecker=typechecker))


def checked(function, careful):
    """The function, its calls checked. careful: jaxtyping's decorator, where it is needed."""
    signature = inspect.signature(function)
    hints = {p.name: _resolved(p.annotation, function) for p in signature.parameters.values()}
    result = _resolved(signature.return_annotation, function)
    kinds = {p.kind for p in signature.parameters.values()}
    shapes = [shape for hint in (*hints.values(), result) for shape in _shapes(hint)]
    if kinds - {*_POSITIONAL, inspect.Parameter.KEYWORD_ONLY} or any("{" in s for s in shapes):
        return careful(function)
    checks = {name: _check(hint) for name, hint in hints.items()}
    in_order = [checks[p.name] for p in signature.parameters.values() if p.kind in _POSITIONAL]
    check_result = None if result in (Any, NoReturn) else _check(result)
    explain = functools.cache(lambda: careful(function))
    config = jaxtyping.config

    def run(arguments, named):
        try:
            for check, argument in zip(in_order, arguments, strict=False):  # fewer, of defaults
                if check is not None:
                    check(argument)
            for name, argument in named.items():
                if (check := checks.get(name)) is not None:
                    check(argument)
        except BeartypeCallHintViolation:
            return explain()(*arguments, **named)
        out = function(*arguments, **named)
        if check_result is not None:
            try:
                check_result(out)
            except BeartypeCallHintViolation as error:
                raise TypeCheckError(f"{function.__qualname__}: result: {error}") from error
        return out

    @functools.wraps(function)
    def call(*arguments, **named):
        if config.jaxtyping_disable:
            return function(*arguments, **named)
        if not shapes:
            return run(arguments, named)
        with scope:
            return run(arguments, named)

    call.checked = True
    return call


def _resolved(annotation, function):
    """What an annotation means; Any where that cannot be found out, as jaxtyping has it."""
    if annotation is inspect.Signature.empty:
        return Any

    def holder(value):
        pass

    holder.__annotations__ = {"value": annotation}
    try:
        return get_type_hints(holder, function.__globals__, include_extras=True)["value"]
    except (AttributeError, NameError, SyntaxError, TypeError):
        return Any


def _shapes(hint):
    """The shapes that an annotation speaks of."""
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        yield hint.dim_str
    for part in get_args(hint):
        yield from _shapes(part)


@functools.cache
def _check(hint):
    """Raises where a value is not as the annotation says; None for one that allows everything."""
    if hint is Any:
        return None

    def check(value):
        pass

    check.__annotations__ = {"value": hint}
    return beartype(check)
