"""A Cholesky factor made of matrix products, and solutions for a few right-hand sides.

XLA leaves a factorisation on the CPU to LAPACK, which does not share XLA's threads. Here LAPACK only sees the diagonal
blocks, `one_blas_thread` keeps its own threads from waiting in a loop for cores that XLA is using (on two busy cores
that costs more than ten times the arithmetic), and all else is matrix products, which every backend does at full speed.
The inverses of the diagonal blocks are kept, so that a solution for a few columns is matrix products too.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import threadpoolctl

BLOCK = 512


class Factor(NamedTuple):
  """lower [n, n], zero above the diagonal blocks; inverses: one [s, s] for every diagonal block."""

  lower: jax.Array
  inverses: tuple


def one_blas_thread():
  """Context in which LAPACK works on one thread; a jitted call has to end inside it.

  Returns:
    A context manager.
  """
  return threadpoolctl.threadpool_limits(limits=1, user_api="blas")


def factorise(matrix):
  """The lower Cholesky factor, block column by block column (left-looking; Golub and Van Loan 2013, sec. 4.2.6).

  Args:
    matrix: [n, n] float, symmetric; only its lower triangle is read.

  Returns:
    `Factor`; it holds nan where the matrix is not positive definite.

  Example:
    >>> factorise(jnp.array([[4.0, 2.0], [2.0, 5.0]])).lower.tolist()
    [[2.0, 0.0], [1.0, 2.0]]
  """
  n = len(matrix)
  lower, inverses = jnp.zeros_like(matrix), []
  for start, stop in _blocks(n):
    column = matrix[start:, start:stop]
    if start:
      column = column - _matmul(lower[start:, :start], lower[start:stop, :start].T)
    corner = jax.lax.linalg.cholesky(column[: stop - start], symmetrize_input=False)
    eye = jnp.eye(stop - start, dtype=matrix.dtype)
    inverses.append(jax.lax.linalg.triangular_solve(corner, eye, left_side=True, lower=True))
    lower = lower.at[start:stop, start:stop].set(corner)
    if stop < n:
      lower = lower.at[stop:, start:stop].set(_matmul(column[stop - start :], inverses[-1].T))
  return Factor(lower, tuple(inverses))


def solve(factor, right):
  """Solves L L' x = right.

  Args:
    factor: from `factorise`.
    right: [n, a] float.

  Returns:
    [n, a] float.

  Example:
    >>> solve(factorise(jnp.array([[4.0, 2.0], [2.0, 5.0]])), jnp.array([[6.0], [7.0]])).tolist()
    [[1.0], [1.0]]
  """
  lower, inverses = factor
  blocks = _blocks(len(lower))
  x = right
  for (start, stop), inverse in zip(blocks, inverses, strict=True):
    part = x[start:stop] - _matmul(lower[start:stop, :start], x[:start])
    x = x.at[start:stop].set(_matmul(inverse, part))
  for (start, stop), inverse in zip(blocks[::-1], inverses[::-1], strict=True):
    part = x[start:stop] - _matmul(lower[stop:, start:stop].T, x[stop:])
    x = x.at[start:stop].set(_matmul(inverse.T, part))
  return x


def _blocks(n):
  return [(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]


def _matmul(a, b):
  return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)  # no TF32 or bfloat16 passes
