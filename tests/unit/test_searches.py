"""The searches for a minimum themselves, on functions of one or a few numbers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lagrange_jax.numerics.lbfgs import minimize
from lagrange_jax.numerics.minimum import find_minimum
from lagrange_jax.numerics.newton import minimize_newton
from lagrange_jax.numerics.search import Point, Search

ENDS: dict[str, Any] = dict(tolerance=1e-5, precision=1e-7, max_evaluations=200)


def make(function):
    def evaluate(x):
        value, gradient = jax.value_and_grad(function)(x)
        return Point(x, value, gradient, jnp.sqrt(jnp.sum(gradient**2)))

    def multiply(point, direction):
        return jax.jvp(jax.grad(function), (point.params,), (direction,))[1]

    return evaluate, multiply


def go_on(function, x):
    evaluate, multiply = make(function)
    search = Search(evaluate(x), jnp.int32(1), jnp.ones((), bool), jnp.zeros(()))
    return minimize_newton(evaluate, multiply, search, **ENDS)


def test_a_step_to_infinity_is_shortened():
    """From where the function is all but straight, to where it overflows."""
    steep = lambda x: jnp.sum(jnp.exp(10 * x) / 10 - x)  # noqa: E731
    found = go_on(steep, jnp.full(1, -20.0))
    np.testing.assert_allclose(found.best.params, 0, atol=1e-5)
    assert found.best.residual <= 1e-5


def test_newton_goes_on_where_another_search_stopped():
    """What was left to gain is found out anew, and evaluations are counted on."""
    bowl = lambda x: jnp.sum(jnp.arange(1.0, 4.0) * (x - 1) ** 2) + 1  # noqa: E731
    found = go_on(bowl, jnp.zeros(3))
    np.testing.assert_allclose(found.best.params, 1, atol=1e-5)
    evaluate, multiply = make(bowl)
    ends = {**ENDS, "max_evaluations": 2}
    spent = minimize(evaluate, jnp.zeros(3), jnp.zeros(3), **ends)
    same = minimize_newton(evaluate, multiply, spent, **ends)
    assert same.num_evaluations == spent.num_evaluations == 2
    assert same.left == spent.left


def test_a_step_beyond_the_minimum_is_shortened_and_one_uphill_not_gone():
    """A model may lead far astray; the start is better then."""
    steep = lambda x: jnp.sum(jnp.exp(3 * x) / 3 - x)  # noqa: E731
    evaluate, _ = make(steep)
    for step in (30.0, -5.0):
        found = minimize(evaluate, jnp.full(1, -1.0), jnp.full(1, step), **ENDS)
        np.testing.assert_allclose(found.best.params, 0, atol=1e-5)


def test_a_search_is_settled_by_its_unit_where_the_value_is_next_to_nothing():
    quartic = lambda x: jnp.sum(x**4)  # noqa: E731
    evaluate, _ = make(quartic)
    ends = {**ENDS, "tolerance": 1.0, "precision": 1e-6}
    exact = minimize(evaluate, jnp.ones(2), jnp.zeros(2), **ends)
    short = minimize(evaluate, jnp.ones(2), jnp.zeros(2), unit=1.0, **ends)
    assert short.num_evaluations < exact.num_evaluations
    assert short.best.value < 1e-5


def test_a_gradient_tells_no_length():
    """From a cliff a step as long as the gradient would end where all is straight."""
    steep = lambda x: jnp.sum(jnp.exp(10 * x) / 10 - x)  # noqa: E731
    evaluate, _ = make(steep)
    found = minimize(evaluate, jnp.full(1, 5.0), jnp.zeros(1), **ENDS)
    np.testing.assert_allclose(found.best.params, 0, atol=1e-5)


def test_where_rounding_is_left_the_solved_end_is_kept():
    """Newton's method may spoil the slope of an end that nothing can be gained from."""

    def noisy(x):
        value, gradient = 1 + jnp.sum(x**2), 2 * x + 1e-5 * jnp.sin(1e7 * x)
        return Point(x, value, gradient, jnp.sqrt(jnp.sum(gradient**2)))

    start, step = jnp.full(2, 0.3), jnp.zeros(2)
    multiply = lambda point, direction: 2 * direction  # noqa: E731
    ends = {**ENDS, "tolerance": 2e-5}
    found = find_minimum(noisy, multiply, start, step, jax.lax.while_loop, **ends)
    assert found.best.residual <= 2e-5 and found.left <= 1e-7
