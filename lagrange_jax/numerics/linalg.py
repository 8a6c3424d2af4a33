"""Small pieces of linear algebra that every solver here shares.

A quantity of each output is a row `[1, k]`, one of the whole kernel a row `[1, 1]`;
both broadcast against a kernel `[d, k]`. `like` is such a row and says which is meant.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, DTypeLike, Float

__all__ = [
    "column_length",
    "column_sum",
    "diagonal",
    "dot",
    "dot_of_columns",
    "eigh",
    "pseudo_inverse",
    "rank_tolerance",
    "scattered",
]

# The sizes at which a TPU takes Jacobi's rotations instead of spectral divide and
# conquer, whose program grows past all bounds; see experiments/benchmarks/README.md.
JACOBI_SIZES = range(257, 2049)


def dot(a: Array, b: Array) -> Array:
    """Returns the product in full precision; accelerators round by default."""
    return jnp.dot(a, b, precision=lax.Precision.HIGHEST)


def dot_of_columns(a: Float[Array, "n d"], b: Float[Array, "n k"]) -> Array:
    """Returns `a.T @ b [d, k]` in full precision, without writing down `a.T`.

    Where k is one a CPU would do so, which takes longer than the product itself.
    """
    over_rows = ((0,), (0,)), ((), ())
    return lax.dot_general(a, b, over_rows, precision=lax.Precision.HIGHEST)


def eigh(matrix: Float[Array, "d d"]) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
    """Returns the eigenvalues, ascending, and the eigenvectors of a symmetric matrix.

    By what each platform compiles and runs well; a TPU's own choice takes minutes to
    compile where d exceeds 256.
    """
    if len(matrix) not in JACOBI_SIZES:
        return _eigh(matrix)
    return lax.platform_dependent(matrix, tpu=_jacobi, default=_eigh)


def _eigh(matrix):
    return tuple(jnp.linalg.eigh(matrix))


def _jacobi(matrix):
    implementation = lax.linalg.EighImplementation.JACOBI
    vectors, values = lax.linalg.eigh(matrix, implementation=implementation)
    return values, vectors


def diagonal(matrix: Float[Array, "d d"]) -> Float[Array, " d"]:
    """Returns the diagonal, by a mask: for a TPU `jnp.diagonal` is a gather."""
    return jnp.sum(jnp.where(jnp.eye(len(matrix), dtype=bool), matrix, 0), axis=0)


def column_sum(array: Float[Array, "d k *b"], like: Array) -> Float[Array, "1 m *b"]:
    """Returns the sum of each column, or of all of them, of the shape of `like`."""
    return array.sum(_axes(array, like), keepdims=True)


def column_length(array: Float[Array, "d k *b"], like: Array) -> Float[Array, "1 m *b"]:
    """Returns the length of each column, or of all together, of the shape of `like`.

    Neither large nor small entries overflow when they are squared.
    """
    largest = jnp.max(jnp.abs(array), axis=_axes(array, like), keepdims=True)
    largest = lax.stop_gradient(jnp.where(largest > 0, largest, 1))
    squares = column_sum((array / largest) ** 2, like)
    # The square root has no derivative at zero; the length of nothing is constant.
    # NaN counts as something, so that it reaches the status.
    is_zero = squares == 0
    root = jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, squares)))
    return largest * root


def _axes(array, like):
    return 0 if like.shape[1] == array.shape[1] else (0, 1)


def rank_tolerance(eigenvalues: Float[Array, " d"]) -> Float[Array, ""]:
    """Returns the eigenvalue at and below which a direction counts as empty.

    The usual `eps * d * largest`: the rounding error of an eigenvalue. It is used
    where rank matters (the minimum-norm solution, degrees of freedom); the
    constrained solution itself needs no such decision.
    """
    eps = jnp.finfo(eigenvalues.dtype).eps
    return eps * eigenvalues.shape[0] * jnp.max(jnp.abs(eigenvalues))


def pseudo_inverse(
    eigenvalues: Float[Array, " d"], resolution: Float[Array, " d"]
) -> Float[Array, " d"]:
    """Returns the inverse of each eigenvalue, and zero for empty directions."""
    kept = eigenvalues > resolution
    return jnp.where(kept, 1 / jnp.where(kept, eigenvalues, 1), 0)


def scattered(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Returns a fixed array of numbers without pattern, between -1 and 1.

    A hash of the place. Random numbers proper would be the larger part of what a TPU
    gets after an eigendecomposition.
    """
    rows, columns = (lax.broadcasted_iota(jnp.uint32, shape, axis) for axis in (0, 1))
    bits = rows * jnp.uint32(0x9E3779B1) + columns * jnp.uint32(0x85EBCA77) + 1
    for factor in (0x7FEB352D, 0x846CA68B):
        bits = (bits ^ (bits >> 16)) * jnp.uint32(factor)
    bits = (bits ^ (bits >> 16)) >> 8
    return bits.astype(dtype) / 2**23 - 1
