"""The optimal head against the floor that the hardware sets, and against peers.

    python -m experiments.benchmarks.solver [--smoke] [--rounds 5] [--out FILE]
        [--only SECTION]

One pinned core, one thread, processor time, rounds interleaved, medians of ratios
within a round. Peers and ours begin with features and targets in memory and end with
all kernels; the time of slow peers is scaled from some columns, as the rows say.
"""

from experiments.benchmarks import timing

if __name__ == "__main__":
    timing.use_one_core()

import argparse
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import lagrange_jax as lj
from experiments.benchmarks import peers
from lagrange_jax.solvers.batched import FEWEST_HEADS

DEFAULT_OUT = Path("experiments/results/benchmarks/solver.json")


def make_data(n, d, k, seed=0, mean=0.0):
    """Correlated features and noisy targets as NumPy arrays in float64."""
    rng = np.random.default_rng(seed)
    features = mean + rng.normal(size=(n, d)) * np.geomspace(1, 0.1, d)
    targets = features @ rng.normal(size=(d, k)) + rng.normal(size=(n, k))
    return features, targets


def row(name, value, demanded=None, **more):
    """One result; `demanded` is ("<=" or ">=", limit)."""
    is_met = None
    if demanded is not None:
        sign, limit = demanded
        is_met = bool(value <= limit if sign == "<=" else value >= limit)
        demanded = f"{sign} {limit}"
    found = {"name": name, "value": float(value), "demanded": demanded, "met": is_met}
    limit = ""
    if demanded is not None:
        limit = f"demanded {demanded}: {'met' if is_met else 'NOT met'}"
    print(f"{name:58} {value:10.3g}  {limit}", flush=True)
    return {**found, **more}


def milliseconds(times):
    return {name: round(1e3 * float(np.median(x)), 3) for name, x in times.items()}


def timed(times, **more):
    return {"milliseconds": milliseconds(times), **more}


def call(function, *arguments):
    """A jitted call that waits for its result."""
    compiled = jax.jit(function)
    return lambda: jax.block_until_ready(compiled(*arguments))


def device_data(n, d, k, dtype=jnp.float32, mean=0.0):
    return tuple(jnp.asarray(a, dtype) for a in make_data(n, d, k, mean=mean))


def two_pass(features, targets):
    """Moments as one would write them: centre, then multiply."""
    x, t = features - features.mean(0), targets - targets.mean(0)
    return x.T @ x / len(x), x.T @ t / len(x)


def two_pass_in_place(features, targets):
    """The same with the product contracted over rows, without a transposed copy."""
    x, t = features - features.mean(0), targets - targets.mean(0)
    product = lambda a, b: jax.lax.dot_general(a, b, (((0,), (0,)), ((), ())))  # noqa: E731
    return product(x, x) / len(x), product(x, t) / len(x)


def solve(features, targets, norm_sq):
    moments = lj.compute_moments(features, targets)
    return lj.solve_least_squares(moments, lj.constraints.fixed_norm(norm_sq))


def solve_spectrum(spectrum, norm_sq):
    return lj.solve_least_squares(spectrum, lj.constraints.fixed_norm(norm_sq))


def total_against_floor(rounds, n, d, k):
    """Moments, eigendecomposition and solve, in units of one X^T X and one eigh."""
    x, t = device_data(n, d, k)
    norm_sq = jnp.ones(k)
    covariance = jax.jit(lj.compute_moments)(x, t).cov_xx
    ways = {
        "product": call(lambda x: x.T @ x, x),
        "eigh": call(jnp.linalg.eigh, covariance),
        "moments": call(lj.compute_moments, x, t),
        "two_pass": call(two_pass, x, t),
        "total by eigh": call(solve, x, t, norm_sq),
    }
    times = timing.measure(ways, rounds)
    value = timing.ratio(times, "total by eigh", ("product", "eigh"))
    name = f"total by eigh / (product + eigh), d={d} n={n} k={k} float32"
    return [row(name, value, ("<=", 0.95), **timed(times))]


def moments_against_two_pass(rounds, n, d, k):
    """One pass over blocks against centring first; and the error with an offset."""
    x, t = device_data(n, d, k)
    ways = {
        "product": call(lambda x: x.T @ x, x),
        "moments": call(lj.compute_moments, x, t),
        "two_pass": call(two_pass, x, t),
        "two_pass_in_place": call(two_pass_in_place, x, t),
    }
    times = timing.measure(ways, rounds)
    value = timing.ratio(times, "moments", "two_pass")
    in_place = timing.ratio(times, "moments", "two_pass_in_place")
    floor = timing.ratio(times, "product", "two_pass_in_place")
    x, t = device_data(n, d, k, mean=100.0)
    exact = np.cov(np.asarray(x, np.float64).T, bias=True)
    found = np.asarray(jax.jit(lj.compute_moments)(x, t).cov_xx)
    error = np.abs(found - exact).max() / np.abs(exact).max()
    shape = f"d={d} n={n} k={k} float32"
    return [
        row(f"moments / two-pass moments, {shape}", value, ("<=", 0.5), **timed(times)),
        row(f"moments / two-pass without transposed copy, {shape}", in_place),
        row(f"bare product / two-pass without transposed copy, {shape}", floor),
        row(f"error of S with a mean of 100, {shape}", error, ("<=", 1e-6)),
    ]


def parts_against_eigh(rounds, n, d, k, limit):
    """What comes after `eigh`, with the certificate and without it."""
    x, t = device_data(n, d, k)
    moments = jax.jit(lj.compute_moments)(x, t)
    spectrum = jax.jit(lj.decompose)(moments)

    def head(spectrum, norm_sq):
        solution = solve_spectrum(spectrum, norm_sq)
        return solution.kernel, solution.bias, solution.multiplier

    ways = {
        "eigh": call(jnp.linalg.eigh, moments.cov_xx),
        "newton_and_back": call(head, spectrum, jnp.ones(k)),
        "with_certificate": call(solve_spectrum, spectrum, jnp.ones(k)),
    }
    times = timing.measure(ways, rounds)
    shape = f"d={d} k={k} float32"
    value = timing.ratio(times, "newton_and_back", "eigh")
    whole = timing.ratio(times, "with_certificate", "eigh")
    return [
        row(f"Newton and back transform / eigh, {shape}", value, ("<=", limit),
            **timed(times)),
        row(f"the same with certificate and status / eigh, {shape}", whole),
    ]  # fmt: skip


def gradient_against_forward(rounds, n, d, k):
    """Value and gradient in features, targets and norm against the value alone."""
    x, t = device_data(n, d, k)
    probe = jnp.asarray(np.random.default_rng(1).normal(size=(d, k)), x.dtype)
    value = lambda x, t, c: jnp.vdot(probe, solve(x, t, c).kernel)  # noqa: E731
    ways = {
        "forward": call(value, x, t, jnp.ones(k)),
        "value_and_gradient": call(
            jax.value_and_grad(value, argnums=(0, 1, 2)), x, t, jnp.ones(k)
        ),
    }
    times = timing.measure(ways, rounds)
    found = timing.ratio(times, "value_and_gradient", "forward")
    name = f"value and gradient / forward, d={d} n={n} k={k} float32"
    return [row(name, found, ("<=", 2.5), **timed(times))]


def host_moments(features, targets):
    x, t = features - features.mean(0), targets - targets.mean(0)
    return x.T @ x / len(x), x.T @ t / len(x)


def floor(features, targets, decompose=True):
    """Transfers and bare products, and `eigh`, which a solver may do without.

    Features may be [n, d], or [b, n, d] for many problems.
    """

    @jax.jit
    def run(x, t):
        product = lambda a, b: jnp.einsum("...nd,...nk->...dk", a, b)  # noqa: E731
        s = product(x, x)
        return jnp.linalg.eigh(s) if decompose else s, product(x, t)

    return lambda: jax.tree.map(
        np.asarray, run(jnp.asarray(features), jnp.asarray(targets))
    )


def errors(s, r, norm_sq, kernel, best, variance):
    """Worst gap in units of the target's variance, worst constraint error."""
    loss = np.einsum("dk,de,ek->k", kernel, s, kernel) - 2 * (r * kernel).sum(0)
    gap = ((loss - best) / variance).max()
    return {
        "worst_gap": float(gap),
        "norm_error": float(np.abs((kernel**2).sum(0) / norm_sq - 1).max()),
    }


def many_outputs(rounds, n, d, k, columns):
    """Many outputs at half the unconstrained norm, float64, peers column by column."""
    features, targets = make_data(n, d, k)
    s, r = host_moments(features, targets)
    free = np.linalg.solve(s, r)
    norm_sq = 0.25 * (free**2).sum(0)
    solver = jax.jit(solve)
    ours = lambda: np.asarray(  # noqa: E731
        solver(jnp.asarray(features), jnp.asarray(targets), norm_sq).kernel
    )

    def loop(function, count):
        s, r = host_moments(features, targets)
        pairs = [(s, r[:, j], norm_sq[j]) for j in range(count)]
        return np.stack([function(*pair) for pair in pairs], axis=1)

    def galahad():
        s, r = host_moments(features, targets)
        return peers.galahad([(s, r[:, j], norm_sq[j]) for j in range(k)])

    slow = partial(loop, count=columns)
    # name: run, columns run, demanded ratio
    ways = {
        "ours": (ours, k, None),
        "galahad": (galahad, k, 15),
        "scipy_exact": (lambda: slow(peers.exact_trust_region), columns, 50),
        "slsqp": (lambda: slow(peers.slsqp), columns, 250),
        "pymanopt": (lambda: slow(peers.pymanopt_sphere), columns, None),
        "fracridge": (lambda: peers.fracridge(features, targets, 0.5), k, 0.8),
    }
    runs = {name: way[0] for name, way in ways.items()}
    times = timing.measure({"floor": floor(features, targets), **runs}, rounds)
    best_kernel, variance = ours(), targets.var(0)
    best = np.einsum("dk,de,ek->k", best_kernel, s, best_kernel)
    best -= 2 * (r * best_kernel).sum(0)
    shape = f"d={d} n={n} k={k} float64"
    rows = [row(f"floor / ours, {shape}", timing.ratio(times, "floor", "ours"))]
    for name, (run, count, limit) in ways.items():
        some = slice(count)
        more = errors(
            s, r[:, some], norm_sq[some], run()[:, some], best[some], variance[some]
        )
        title = f"{name} / ours, {shape}"
        value = timing.ratio(times, name, "ours", k / count)
        demanded = None if limit is None else (">=", limit)
        rows.append(
            row(title, value, demanded, **timed(times, columns_run=count, **more))
        )
    return rows


def many_problems(rounds, count, n, d, slow_count):
    """Small problems, with their moments and without, float64.

    Ours takes moments by a hundred: one vmap over all writes a centred copy of all
    features, new memory from the system at every call. The heads are solved together.
    """
    data = [make_data(n, d, 1, seed=i) for i in range(count)]
    x, t = (np.stack(a) for a in zip(*data, strict=True))
    norm_sq = np.array(
        [0.25 * (np.linalg.solve(*host_moments(*pair)) ** 2).sum() for pair in data]
    )
    radii = jnp.asarray(norm_sq)[:, None]

    def whole(solver):
        solver = jax.jit(solver)
        return lambda: np.asarray(solver(jnp.asarray(x), jnp.asarray(t), radii).kernel)

    def by_hundreds(x, t, radii):
        one = lambda pair: lj.compute_moments(*pair)  # noqa: E731
        moments = jax.lax.map(one, (x, t), batch_size=100)
        return jax.vmap(solve_spectrum)(moments, radii)

    moments = jax.block_until_ready(jax.jit(jax.vmap(lj.compute_moments))(x, t))
    from_moments = jax.jit(jax.vmap(solve_spectrum))

    def problems(number):
        pairs = [host_moments(*pair) for pair in data[:number]]
        return [(s, r[:, 0], c) for (s, r), c in zip(pairs, norm_sq, strict=False)]

    ways = {
        "one vmap": whole(jax.vmap(solve)),
        "ours": whole(by_hundreds),
        "floor": floor(x, t),
        "floor without eigh": floor(x, t, decompose=False),
        "our solver": lambda: np.asarray(from_moments(moments, radii).kernel),
        "galahad": lambda: peers.galahad(problems(count)),
        "galahad's solver": lambda: peers.galahad(pairs),
        "slsqp": lambda: [peers.slsqp(*pair) for pair in problems(slow_count)],
    }
    pairs = problems(count)
    times = timing.measure(ways, rounds)
    shape = f"{count} problems d={d} n={n} float64"
    return [
        *(row(f"{name} / ours, {shape}", timing.ratio(times, name, "ours"))
          for name in ("one vmap", "floor", "floor without eigh")),
        row(f"galahad / ours, {shape}", timing.ratio(times, "galahad", "ours"),
            (">=", 3), **timed(times)),
        row(f"galahad's solver / our solver, {shape}",
            timing.ratio(times, "galahad's solver", "our solver"), (">=", 6)),
        row(f"slsqp / ours, {shape}",
            timing.ratio(times, "slsqp", "ours", count / slow_count), (">=", 150),
            **timed(times, problems_run=slow_count)),
    ]  # fmt: skip


def small_heads(rounds, count, d, dtype, limit):
    """A batch of heads from moments: together, and as one by one under `vmap`."""
    data = [make_data(200, d, 1, seed=i) for i in range(count)]
    x, t = (np.stack(a).astype(dtype) for a in zip(*data, strict=True))
    moments = jax.block_until_ready(jax.jit(jax.vmap(lj.compute_moments))(x, t))
    least = np.linalg.solve(moments.cov_xx, moments.cov_xt)
    norm_sq = jnp.asarray(0.25 * (least**2).sum(1))
    few = min(count // 2, FEWEST_HEADS - 1)
    one = lambda problem: solve_spectrum(*problem)  # noqa: E731
    apart = lambda *batch: jax.lax.map(one, batch, batch_size=few)  # noqa: E731
    ways = {
        "one by one": call(apart, moments, norm_sq),
        "together": call(jax.vmap(solve_spectrum), moments, norm_sq),
        "eigh": call(jnp.linalg.eigh, moments.cov_xx),
    }
    first = {name: timing.two_calls(run)["first_cpu"] for name, run in ways.items()}
    times = timing.measure(ways, rounds)
    apart, together = (ways[name]().kernel for name in ("one by one", "together"))
    more = dict(
        first_call_seconds={name: round(x, 2) for name, x in first.items()},
        largest_difference=float(jnp.abs(apart - together).max()),
    )
    title = f"{count} heads together / one by one, d={d} {np.dtype(dtype)}"
    value = timing.ratio(times, "together", "one by one")
    demanded = None if limit is None else ("<=", limit)
    return [row(title, value, demanded, **timed(times, **more))]


def batched_moments(rounds, count, n, d, dtype):
    """Moments of many problems against NumPy's einsum, centred and not.

    By hundreds there is no centred copy of all features: see `many_problems`.
    """
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, n, d)).astype(dtype)
    t = rng.normal(size=(count, n, 1)).astype(dtype)

    def bare(x, t):
        product = lambda a, b: np.einsum("bnd,bnk->bdk", a, b, optimize=True)  # noqa: E731
        return product(x, x), product(x, t)

    centre = lambda a: a - a.mean(1, keepdims=True)  # noqa: E731
    one = lambda pair: lj.compute_moments(*pair)  # noqa: E731
    by_hundreds = lambda *a: jax.lax.map(one, a, batch_size=100)  # noqa: E731
    on_device = jnp.asarray(x), jnp.asarray(t)
    ways = {
        "moments": call(by_hundreds, *on_device),
        "one vmap": call(jax.vmap(lj.compute_moments), *on_device),
        "einsum": lambda: bare(x, t),
        "einsum, centred": lambda: bare(centre(x), centre(t)),
    }
    times = timing.measure(ways, rounds)
    shape = f"{count} problems d={d} n={n} {np.dtype(dtype)}"
    centred = timing.ratio(times, "moments", "einsum, centred")
    return [
        row(f"moments / NumPy's einsum of centred data, {shape}", centred, ("<=", 1),
            **timed(times)),
        row(f"moments / NumPy's einsum without centring, {shape}",
            timing.ratio(times, "moments", "einsum")),
        row(f"one vmap / moments by hundreds, {shape}",
            timing.ratio(times, "one vmap", "moments")),
    ]  # fmt: skip


def wrong_basins(problems, starts, d=15, n=200):
    """Share of runs from random starts that end more than 1e-4 variances too high."""
    local = {
        "slsqp": peers.slsqp,
        "trust_constr": peers.trust_constr,
        "pymanopt": peers.pymanopt_sphere,
    }
    solver, rows, rng = jax.jit(solve), [], np.random.default_rng(0)
    for times_norm in (4.0, 30.0, 300.0):
        wrong, beaten = dict.fromkeys(local, 0), 0
        for seed in range(problems):
            x, t = make_data(n, d, 1, seed=seed)
            s, r = host_moments(x, t)
            c = times_norm * (np.linalg.solve(s, r) ** 2).sum()
            ours = np.asarray(solver(x, t, np.array([c])).kernel)[:, 0]
            best, variance = peers.loss(s, r[:, 0], ours), t.var()
            for _ in range(starts):
                start = rng.normal(size=d)
                for name, run in local.items():
                    gap = peers.loss(s, r[:, 0], run(s, r[:, 0], c, start)) - best
                    wrong[name] += gap > 1e-4 * variance
                    beaten += gap < -1e-4 * variance
        runs = problems * starts
        at = f"norm_sq {times_norm:g} x free, {runs} runs"
        for name, number in wrong.items():
            rows.append(row(f"wrong basins of {name}, {at}", number / runs))
        rows.append(row(f"wrong basins of ours, {at}", beaten / runs, ("<=", 0.0)))
    return rows


def initialise_against_epoch(rounds, n):
    """The Lagrangian head of the RUL network against one epoch of Adam."""
    import optax

    import lagrange_jax.models.linen
    from experiments.backbones import RulCNN

    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(n, 30, 14)), jnp.float32)
    t = jnp.asarray(rng.normal(size=(n, 1)), jnp.float32)
    module, optimizer, size = RulCNN(), optax.adam(1e-3), min(512, n)
    model = lagrange_jax.models.linen.as_model(module, x[:1])
    init, key = lj.lagrange(), jax.random.key(0)
    params = module.init(key, x[:1])

    def step(state, batch):
        params, moments = state
        error = lambda p: jnp.mean((module.apply(p, batch[0]) - batch[1]) ** 2)  # noqa: E731
        updates, moments = optimizer.update(jax.grad(error)(params), moments, params)
        return (optax.apply_updates(params, updates), moments), None

    def epoch(params, x, t):
        fold = lambda a: a[: n // size * size].reshape(-1, size, *a.shape[1:])  # noqa: E731
        return jax.lax.scan(step, (params, optimizer.init(params)), (fold(x), fold(t)))

    ways = {
        "initialize": lambda: jax.block_until_ready(
            lj.initialize(key, model, init, (x, t), eval_batch_size=1024)
        ),
        "epoch": call(epoch, params, x, t),
    }
    times = timing.measure(ways, rounds)
    value = timing.ratio(times, "initialize", "epoch")
    name = f"initialise / one epoch, RUL network, {n} windows"
    return [row(name, value, ("<=", 1.0), **timed(times))]


def x64(function, *arguments):
    """Calls in double precision."""
    with jax.enable_x64(True):
        return function(*arguments)


def sections(rounds):
    """The measurements, each to be called; those that need float64 say so."""
    yield partial(total_against_floor, rounds, 50_000, 512, 100)
    yield partial(moments_against_two_pass, 2 * rounds + 1, 50_000, 84, 1)
    yield partial(parts_against_eigh, 4 * rounds + 1, 5000, 512, 1, 0.08)
    yield partial(parts_against_eigh, 4 * rounds + 1, 5000, 512, 100, 0.25)
    yield partial(gradient_against_forward, rounds, 5000, 84, 1)
    yield partial(gradient_against_forward, rounds, 5000, 84, 10)
    yield partial(gradient_against_forward, rounds, 5000, 512, 1)
    yield partial(x64, many_outputs, rounds, 5000, 84, 100, 5)
    yield partial(x64, many_problems, rounds, 1000, 200, 15, 50)
    for d, limit in ((5, None), (15, 0.35), (32, 0.5), (64, None)):
        yield partial(small_heads, 2 * rounds + 1, 1000, d, np.float32, limit)
        yield partial(x64, small_heads, 2 * rounds + 1, 1000, d, np.float64, limit)
    yield partial(small_heads, 2 * rounds + 1, 10_000, 15, np.float32, None)
    yield partial(batched_moments, 2 * rounds + 1, 1000, 200, 15, np.float32)
    yield partial(x64, batched_moments, 2 * rounds + 1, 1000, 200, 15, np.float64)
    yield partial(x64, wrong_basins, 20, 3)
    yield partial(initialise_against_epoch, 3, 14_042)


def smoke_sections():
    yield partial(total_against_floor, 1, 500, 20, 3)
    yield partial(moments_against_two_pass, 1, 500, 20, 1)
    yield partial(parts_against_eigh, 1, 500, 20, 3, 1e3)
    yield partial(gradient_against_forward, 1, 500, 20, 2)
    yield partial(x64, many_outputs, 1, 500, 20, 4, 1)
    yield partial(x64, many_problems, 1, 4, 50, 5, 2)
    yield partial(small_heads, 1, FEWEST_HEADS, 3, np.float32, None)
    yield partial(batched_moments, 1, 4, 50, 5, np.float32)
    yield partial(x64, wrong_basins, 1, 1)
    yield partial(initialise_against_epoch, 1, 64)


def name_of(section):
    """The name of the function that measures."""
    return next(f for f in (section.func, *section.args) if f is not x64).__name__


def main(argv=None):
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, no record")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    parser.add_argument("--only", help="one section, such as many_problems")
    arguments = parser.parse_args(argv)
    chosen = smoke_sections() if arguments.smoke else sections(arguments.rounds)
    command = f"python -m experiments.benchmarks.solver --rounds {arguments.rounds}"
    command += f" --only {arguments.only}" if arguments.only else ""
    rows = []
    for section in chosen:
        if arguments.only not in (None, name_of(section)):
            continue
        rows += section()
        if not arguments.smoke:  # after each, so that a stopped run leaves a record
            timing.write_rows(arguments.out, command, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
