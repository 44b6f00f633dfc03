"""Bytes of a program: by hand, and of loops that are run."""

import jax
import jax.numpy as jnp
import pytest

from jiqa.plan import traffic

# 400 bytes: f32[10,10]; 40: a row.
PROGRAM = """
%cut (a: f32[10,10], i: s32[]) -> f32[1,10] {
  %a = f32[10,10]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %piece = f32[1,10]{1,0} dynamic-slice(%a, %i, %i), dynamic_slice_sizes={1,10}
  ROOT %twice = f32[1,10]{1,0} add(%piece, %piece)
}

%change (a: f32[10,10], row: f32[1,10], i: s32[]) -> f32[10,10] {
  %a = f32[10,10]{1,0} parameter(0)
  %row = f32[1,10]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %negative = f32[1,10]{1,0} negate(%row)
  %changed = f32[10,10]{1,0} dynamic-update-slice(%a, %negative, %i, %i)
  ROOT %as_is = f32[10,10]{1,0} bitcast(%changed)
}

%body (state: (s32[], f32[10,10])) -> (s32[], f32[10,10]) {
  %state = (s32[], f32[10,10]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %a = f32[10,10]{1,0} get-tuple-element(%state), index=1
  %row = f32[1,10]{1,0} fusion(%a, %i), kind=kLoop, calls=%cut
  %b = f32[10,10]{1,0} fusion(%a, %row, %i), kind=kLoop, calls=%change
  ROOT %next = (s32[], f32[10,10]{1,0}) tuple(%i, %b)
}

%condition (state: (s32[], f32[10,10])) -> pred[] {
  %end = s32[] constant(7)
  %state = (s32[], f32[10,10]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  ROOT %less = pred[] compare(%i, %end), direction=LT
}

%small (a: f32[10,10]) -> f32[10,10] {
  %a = f32[10,10]{1,0} parameter(0)
  ROOT %b = f32[10,10]{1,0} negate(%a)
}

%large (a: f32[10,10]) -> f32[10,10] {
  %a = f32[10,10]{1,0} parameter(0)
  %b = f32[10,10]{1,0} multiply(%a, %a)
  ROOT %c = f32[10,10]{1,0} negate(%b)
}

ENTRY %main (x: f32[10,10], which: s32[]) -> f32[10,10] {
  %x = f32[10,10]{1,0} parameter(0)
  %which = s32[] parameter(1)
  %zero = s32[] constant(0)
  %began = (s32[], f32[10,10]{1,0}) tuple(%zero, %x)
  %loop = (s32[], f32[10,10]{1,0}) while(%began), condition=%condition, body=%body
  %looped = f32[10,10]{1,0} get-tuple-element(%loop), index=1
  %start = (f32[10,10]{1,0:T(8,128)S(1)}, f32[10,10]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%looped)
  %near = f32[10,10]{1,0:T(8,128)S(1)} copy-done(%start)
  %square = f32[10,10]{1,0:T(8,128)S(1)} multiply(%near, %near)
  %sum = f32[10,10]{1,0:T(8,128)} add(%square, %looped)
  ROOT %chosen = f32[10,10]{1,0} conditional(%which, %sum, %sum), branch_computations={%small, %large}
}
"""


def test_bytes_of_loops_pieces_changes_in_place_branches_and_memory_on_the_chip():
  turn = (40 + 4 + 40) + (40 + 4 + 40)  # a piece with its place, a change in place
  copied, added, chosen = 400, 800, 800 + 800
  far, every = traffic.total(PROGRAM)
  assert far == 7 * turn + copied + added + chosen
  assert every == 7 * turn + 2 * copied + 800 + 1200 + chosen


@pytest.mark.parametrize("turns", [1, 5])
def test_a_loop_moves_its_bytes_as_often_as_it_runs(turns):
  def many(x):
    return jax.lax.fori_loop(0, turns, lambda _, x: jnp.sin(x) @ jnp.cos(x.T), x)

  program = jax.jit(many).lower(jnp.ones((256, 256))).compile()
  far, every = traffic.total(program.as_text())
  array = 4 * 256**2
  assert far == every and 5 * array * turns <= far <= 7 * array * turns + 3 * array
