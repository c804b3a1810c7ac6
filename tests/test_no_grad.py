"""`no_grad` as a context and as a decorator of every kind of function, in several threads and nested."""

import asyncio
import copy
import functools
import inspect
import pickle
import threading

import numpy as np
import pytest

import gpunet as gp
from gpunet import nn


def records():
    """Whether operations of this thread are recorded now."""
    x = gp.tensor(np.ones(2), backend="reference", requires_grad=True)
    return (x * 2).requires_grad


STYLES = [gp.no_grad, gp.no_grad()]
"""Bare, and one instance that decorates several functions."""
styles = pytest.mark.parametrize("style", STYLES, ids=["bare", "called"])


@styles
def test_a_decorated_function_records_nothing_and_keeps_its_name(style):
    @style
    def look(a, *, b=1):
        """Says so."""
        return a, b, records()

    assert look(3, b=4) == (3, 4, False)
    assert (look.__name__, look.__doc__) == ("look", "Says so.")
    assert list(inspect.signature(look).parameters) == ["a", "b"]
    assert records()


@styles
def test_methods_partials_and_callable_objects_are_decorated_too(style):
    class Looking:
        def __call__(self):
            return records()

        @style
        def method(self):
            return self, records()

        @style
        @staticmethod
        def static(x):
            return x, records()

        @style
        @classmethod
        def of_class(cls):
            return cls, records()

    it = Looking()
    assert it.method() == (it, False)
    assert it.static(1) == Looking.static(1) == (1, False)
    assert it.of_class() == (Looking, False)
    assert style(it)() is style(functools.partial(records))() is False
    assert records()


@pytest.mark.parametrize(("given", "got"), [(3, "got int"), (ValueError, "got the class ValueError"), ("f", "got str")])
def test_an_error_names_what_is_not_a_function(given, got):
    for style in STYLES:
        with pytest.raises(TypeError, match=f"no_grad: takes a function.*{got}"):
            style(given)


@styles
def test_a_generator_records_nothing_while_its_own_code_runs(style):
    log = []

    @style
    def steps(n):
        try:
            for i in range(n):
                try:
                    log.append((yield i, records()))
                except KeyError as error:
                    log.append((type(error), records()))
            return records()
        finally:
            log.append(("closed", records()))

    assert inspect.isgeneratorfunction(steps)
    running = steps(3)
    assert next(running) == (0, False)
    assert records()
    assert running.send("sent") == (1, False)
    assert running.throw(KeyError) == (2, False)
    with pytest.raises(StopIteration) as end:
        running.send(None)
    assert end.value.value is False
    assert log == ["sent", (KeyError, False), None, ("closed", False)]
    closing = steps(3)
    next(closing)
    closing.close()
    assert log[-1] == ("closed", False)
    assert records()
    failing = steps(3)
    next(failing)
    with pytest.raises(OSError, match="thrown"):
        failing.throw(OSError("thrown"))
    assert records()


@styles
def test_interleaved_generators_leave_the_callers_mode_as_it_is(style):
    @style
    def steps():
        while True:
            yield records()

    one, other = steps(), steps()
    with gp.no_grad():
        assert (next(one), next(other), records()) == (False, False, False)
    assert (next(other), records(), next(one), records()) == (False, True, False, True)
    one.close()
    other.close()
    assert records()


@styles
def test_coroutines_and_asynchronous_generators_record_nothing_while_their_own_code_runs(style):
    @style
    async def work():
        before = records()
        await asyncio.sleep(0)
        try:
            await asyncio.wait_for(asyncio.Event().wait(), 0.001)
        except TimeoutError:
            return before, records()

    log = []

    @style
    async def items():
        try:
            for i in range(3):
                await asyncio.sleep(0)
                try:
                    log.append((yield i, records()))
                except KeyError:
                    log.append(records())
        finally:
            await asyncio.sleep(0)
            log.append(records())

    async def others(seen):
        for _ in range(20):
            seen.append(records())
            await asyncio.sleep(0)

    async def main():
        seen = []
        results = await asyncio.gather(work(), others(seen), work())
        assert results == [(False, False), None, (False, False)]
        assert [(item, records()) async for item in items()] == [((i, False), True) for i in range(3)]
        running = items()
        assert await anext(running) == (0, False)
        assert await running.asend("sent") == (1, False)
        assert await running.athrow(KeyError) == (2, False)
        await running.aclose()
        assert records()
        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return seen

    assert inspect.iscoroutinefunction(work)
    assert inspect.isasyncgenfunction(items)
    assert all(asyncio.run(main()))
    assert log == [None, None, None, False, "sent", False, False]
    assert records()


@styles
@pytest.mark.parametrize("kind", ["function", "block"])
def test_two_threads_inside_at_once_keep_their_own_modes(style, kind):
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()
    shared, after = gp.no_grad(), {}

    def inside(entered, leave):
        entered.set()
        assert leave.wait(20)

    decorated = style(inside)

    def run(name, entered, leave, off):
        def enter():
            if kind == "function":
                decorated(entered, leave)
            else:
                with shared:
                    inside(entered, leave)

        if off:
            with gp.no_grad():
                enter()
                after[name] = records()
        else:
            enter()
            after[name] = records()
        first_out.set()

    first = threading.Thread(target=run, args=("first", first_in, second_in, False))
    second = threading.Thread(target=run, args=("second", second_in, first_out, True))
    first.start()
    assert first_in.wait(20)
    second.start()
    first.join()
    second.join()
    assert after == {"first": True, "second": False}


@styles
def test_a_decorated_function_may_call_itself_and_raise(style):
    @style
    def fall(n):
        assert not records()
        return fall(n - 1) if n else 1 / 0

    with pytest.raises(ZeroDivisionError):
        fall(5)
    assert records()
    again = gp.no_grad()
    with again, again:
        assert not records()
    assert records()


def test_contexts_that_are_left_in_the_order_they_were_entered_in_end_together():
    def steps():
        with gp.no_grad():
            yield records()

    one, other = steps(), steps()
    assert (next(one), next(other)) == (False, False)
    one.close()
    assert not records()
    other.close()
    assert records()


def test_a_model_that_holds_a_context_is_copied_and_pickled():
    model = nn.Sequential(nn.Linear(1, 1))
    model.context = gp.no_grad()
    with model.context:
        copies = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    for copied in copies:
        with pytest.raises(RuntimeError, match="has not entered"):
            copied.context.__exit__(None, None, None)
        with copied.context:
            assert not copied([[1.0]]).requires_grad
        assert copied([[1.0]]).requires_grad
