"""Decorators that run the code of any kind of function inside a context."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractContextManager
from typing import Any

Context = Callable[[], AbstractContextManager[Any]]


def decorated(name: str, context: Context, function: Any) -> Any:
    """The function, each of whose calls runs inside a new ``context()``.

    The context is entered whenever a generator, a coroutine or an asynchronous generator resumes,
    and left whenever it pauses: code that iterates over it, and other tasks, run outside.

    Args:
        name: the decorator's name, for messages.
        context: makes the context manager.
        function: a function, a method, a `staticmethod`, a `classmethod` or a callable object.
    Raises:
        TypeError: `function` is a class, whose methods can be decorated, or cannot be called.
    """
    if isinstance(function, staticmethod | classmethod):
        return type(function)(decorated(name, context, function.__func__))
    if isinstance(function, type):
        raise TypeError(f"{name}: takes a function, got the class {function.__name__}; decorate its methods")
    if not callable(function):
        raise TypeError(f"{name}: takes a function to decorate, got {type(function).__name__}")
    if _is(inspect.isgeneratorfunction, function):
        return _of_generator(context, function)
    if _is(inspect.iscoroutinefunction, function):
        return _of_coroutine(context, function)
    if _is(inspect.isasyncgenfunction, function):
        return _of_async_generator(context, function)

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        with context():
            return function(*args, **options)

    return call


def _is(kind: Callable[[Any], bool], function: Any) -> bool:
    """Whether a function, or the method that runs when an object is called, is of a kind."""
    return kind(function) or kind(getattr(function, "__call__", None))  # noqa: B004 - of a callable object


def _of_generator(context: Context, function: Any) -> Any:
    @functools.wraps(function)
    def generate(*args: Any, **options: Any) -> Any:
        return (yield from _steps(context, function(*args, **options)))

    return generate


def _of_coroutine(context: Context, function: Any) -> Any:
    @functools.wraps(function)
    async def run(*args: Any, **options: Any) -> Any:
        return await _steps(context, function(*args, **options))

    return run


def _of_async_generator(context: Context, function: Any) -> Any:
    @functools.wraps(function)
    async def generate(*args: Any, **options: Any) -> AsyncGenerator[Any, Any]:
        body = function(*args, **options)
        step = body.asend(None)
        while True:
            try:
                item = await _steps(context, step)
            except StopAsyncIteration:
                return
            try:
                step = body.asend((yield item))
            except GeneratorExit:
                await _steps(context, body.aclose())
                raise
            except BaseException as error:
                step = body.athrow(error)

    return generate


@types.coroutine
def _steps(context: Context, body: Any) -> Generator[Any, Any, Any]:
    """Yield and return what a generator or coroutine does, and pass on what is sent and thrown.

    Its code runs inside a new context each time it resumes. Generators ``yield from`` this, and
    coroutines await it.
    """
    resume, value = body.send, None
    while True:
        try:
            with context():
                item = resume(value)
        except StopIteration as end:
            return end.value
        try:
            resume, value = body.send, (yield item)
        except GeneratorExit:
            with context():
                body.close()
            raise
        except BaseException as error:
            resume, value = body.throw, error
