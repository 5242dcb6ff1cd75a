"""Reading compiled programs: what runs, how often, and what is exchanged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vdm_jax import sharding
from vdm_jax.planning import flops, hlo, hlo_cost

# As the TPU compiler writes it: layouts with parentheses in them, comments in
# long types, three ways to name a group, and starts apart from their ends.
TEXT = """\
HloModule jit_step, is_scheduled=true, num_partitions=8

%sum (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %add.1 = f32[] add(%x, %y)
}

%body (p: (s32[], f32[64])) -> (s32[], f32[64]) {
  %p = (s32[]{:T(128)}, f32[64]{0:T(128)}) parameter(0)
  %v = f32[64]{0:T(128)} get-tuple-element(%p), index=1
  %shift = f32[64]{0:T(128)} collective-permute(%v), channel_id=3, \
source_target_pairs={{0,1},{1,0}}, metadata={op_name="jit(step)/loop"}
  ROOT %t = (s32[], f32[64]) tuple(%shift, %shift)
}

%condition (p: (s32[], f32[64])) -> pred[] {
  %p.1 = (s32[], f32[64]) parameter(0)
  %n = s32[]{:T(128)} constant(5)
  %i = s32[] get-tuple-element(%p.1), index=0
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

%fused (a: bf16[8,128]) -> bf16[8,128] {
  %a = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %m = bf16[8,128]{1,0} multiply(%a, %a), \
backend_config={"estimated_cycles":"999"}
}

ENTRY %main (in: bf16[8,128], g: f32[100]) -> f32[64] {
  %in = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %g = f32[100]{0:T(128)} parameter(1)
  %f = bf16[8,128]{1,0:T(8,128)(2,1)S(3)} fusion(%in), kind=kLoop, \
calls=%fused, metadata={op_name="jit(step)/UNet/conv"}, \
backend_config={"window_config":{"estimated_cycles":"615"}}
  %all = (f32[100]{0:T(128)}, /*index=1*/bf16[8,128]{1,0:T(8,128)(2,1)}) \
all-reduce(%g, %f), channel_id=1, \
replica_groups=mesh['a'=4,'b'=2,'c'=1] {'a','c'}, to_apply=%sum, \
metadata={op_name="jit(step)/grad"}
  %gs = (bf16[8,128]{1,0}, bf16[64,128]{1,0}) all-gather-start(%in), \
replica_groups=[1,8]<=[8], dimensions={0}
  %gd = bf16[64,128]{1,0:T(8,128)(2,1)} all-gather-done(%gs)
  %rs = f32[50]{0} reduce-scatter(%g), replica_groups=\
mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}, \
dimensions={0}, to_apply=%sum
  %w = (s32[], f32[64]) while(%t0), condition=%condition, body=%body
  ROOT %r = f32[64]{0} get-tuple-element(%w), index=1
}
"""


def test_every_way_to_write_a_collective_is_read():
  module = hlo.parse(TEXT)
  assert module.entry == 'main' and module.devices == 8
  found = {c.kind: c for c in hlo.collectives(module)}
  assert len(found) == len(hlo.collectives(module)) == 4
  half = 8 * 128 * 2
  summed = found['all-reduce']
  assert (summed.bytes, summed.group) == (400 + half, 4)
  assert summed.source == 'jit(step)/grad'
  assert summed.sent == 2 * 3 / 4 * (400 + half)
  gathered = found['all-gather']
  assert (gathered.bytes, gathered.group) == (8 * half, 8)
  assert gathered.overlaps and not summed.overlaps
  assert gathered.sent == 7 * half
  scattered = found['reduce-scatter']
  assert (scattered.bytes, scattered.group) == (400, 2)
  assert scattered.sent == 200


def test_an_exchange_that_kernels_work_on_in_turns_is_one():
  """As TPUs overlap them; and a reduce-scatter is a kernel of that name."""
  part = """
%{name} (p: f32[16]) -> f32[{n}] {{
  %p = f32[16]{{0}} parameter(0)
  ROOT %r = f32[{n}]{{0}} {kind}(%p), channel_id={channel}, \\
replica_groups={{{{0,1}}}}
}}
"""
  rows = (
    ('start', 'all-gather', 32, 7),
    ('async_collective_fusion.1', 'all-gather', 32, 7),
    ('async_collective_fusion.2', 'all-gather', 32, 7),
    ('other', 'all-gather', 32, 8),
    ('all-reduce-scatter.1', 'all-reduce', 16, 9),
  )
  text = 'HloModule jit_step, num_partitions=2\n'
  for name, kind, n, channel in rows:
    text += part.format(name=name, kind=kind, n=n, channel=channel)
  text += '\nENTRY %main (x: f32[16]) -> f32[32] {\n'
  text += '  %x = f32[16]{0} parameter(0)\n'
  for i, (name, _, n, _) in enumerate(rows):
    text += f'  %f{i} = f32[{n}]{{0}} fusion(%x), calls=%{name}\n'
  found = hlo.collectives(hlo.parse(text.replace('\\\n', '') + '}\n'))
  assert [c.kind for c in found] == [
    'all-gather',
    'all-gather',
    'reduce-scatter',
  ]
  assert [c.overlaps for c in found] == [True, False, False]
  assert [c.bytes for c in found] == [128, 128, 64]


def test_a_loop_counts_as_often_as_it_goes_round():
  table = hlo.totals(hlo.collectives(hlo.parse(TEXT)))
  row = table['collective-permute']
  assert (row['count'], row['bytes'], row['sent']) == (5, 5 * 256, 5 * 256)
  # The compiler's own count, where there is one, goes first.
  known = 'body=%body, backend_config={"known_trip_count":{"n":"7"}}'
  table = hlo.totals(
    hlo.collectives(hlo.parse(TEXT.replace('body=%body', known)))
  )
  assert table['collective-permute']['count'] == 7
  assert table['all-reduce']['count'] == 1


def test_a_kernel_takes_its_arithmetic_or_its_traffic():
  """An array in a small memory, S(1), is no traffic; nor are copies' ends."""
  text = """\
HloModule jit_step, num_partitions=1

%fused (a: bf16[8,128], b: bf16[128,64]) -> f32[8,64] {
  %a = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %b = bf16[128,64]{1,0} parameter(1)
  ROOT %c = f32[8,64]{1,0} convolution(%a, %b), dim_labels=bf_io->bf
}

ENTRY %main (x: bf16[8,128], w: bf16[128,64]) -> f32[8,64] {
  %x = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %w = bf16[128,64]{1,0:T(8,128)(2,1)} parameter(1)
  %cs = (bf16[8,128]{1,0:S(1)}, bf16[8,128]{1,0}) copy-start(%x)
  %cd = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} copy-done(%cs)
  ROOT %f = f32[8,64]{1,0} fusion(%cd, %w), kind=kOutput, calls=%fused, \
metadata={op_name="UNet/conv_in"}
}
"""
  copy, product = hlo_cost.kernels(hlo.parse(text))
  assert (copy.bytes, copy.flops, copy.waits) == (8 * 128 * 2, 0, False)
  flops, traffic = 2 * 8 * 128 * 64, 128 * 64 * 2 + 8 * 64 * 4
  assert (product.source, product.flops) == ('UNet/conv_in', flops)
  assert (product.bytes, product.waits) == (traffic, True)
  found = hlo_cost.bound(hlo.parse(text), flops=1.0, bandwidth=1e9)
  assert found['serial'] == found['overlapped'] == flops
  found = hlo_cost.bound(hlo.parse(text), flops=1e9, bandwidth=1.0)
  assert found['overlapped'] == traffic + copy.bytes
  assert found['sources'] == {'UNet/conv_in': traffic}


def test_convolutions_of_a_program_count_as_before_the_compiler():
  def convolve(x, w):
    same = jax.lax.conv_general_dilated(
      x, w, (2, 1), [(1, 1), (0, 2)], dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    return jnp.tanh(same) @ jnp.ones((5, 4))

  args = jnp.ones((2, 9, 7, 3)), jnp.ones((3, 3, 3, 5))
  text = jax.jit(convolve).lower(*args).as_text('hlo')
  counted = sum(k.flops for k in hlo_cost.kernels(hlo.parse(text)))
  assert counted == flops.count(jax.make_jaxpr(convolve)(*args).jaxpr)


@pytest.mark.parametrize(
  'shape, size',
  [
    ('f32[]', 4),
    ('bf16[3,5]{1,0:T(8,128)(2,1)S(3)}', 30),
    ('(s32[2]{0}, /*index=1*/pred[7], u4[6])', 8 + 7 + 3),
    ('f8e4m3fn[10]', 10),
    ('c64[2]', 16),
    ('(f32[0,4], token[])', 0),
  ],
)
def test_sizes_are_those_of_the_numbers(shape, size):
  assert hlo.size(shape) == size


def compiled(function, mesh, *placed):
  shapes = [
    jax.ShapeDtypeStruct(s, jnp.float32, sharding=NamedSharding(mesh, spec))
    for s, spec in placed
  ]
  return jax.jit(function, out_shardings=NamedSharding(mesh, P())).lower(
    *shapes
  )


def test_a_sum_over_devices_is_one_all_reduce():
  """Real programs, of the compiler at hand; and none where none is needed."""
  mesh = sharding.make_mesh(devices=jax.devices()[:4])
  split = ((8, 6), P('data'))
  text = compiled(lambda x: x.sum(0), mesh, split).compile().as_text()
  (found,) = hlo.collectives(hlo.parse(text))
  assert (found.kind, found.group, found.bytes) == ('all-reduce', 4, 24)
  text = compiled(lambda x: x.sum(0), mesh, ((8, 6), P())).compile().as_text()
  assert hlo.collectives(hlo.parse(text)) == []


def test_a_scan_over_exchanges_counts_each_turn():
  mesh = sharding.make_mesh(devices=jax.devices()[:4])

  def turns(x):
    def body(total, _):
      return jnp.tanh(total + x.sum(0)[None] * total.sum(0)[None]), None

    return jax.lax.scan(body, x, None, length=9)[0].sum(0)

  text = compiled(turns, mesh, ((8, 6), P('data'))).compile().as_text()
  module = hlo.parse(text)
  counts = [c.times for c in hlo.collectives(module)]
  assert 9 in counts
  loops = [
    line for _, line, _ in hlo.executed(module) if line.opcode == 'while'
  ]
  assert [hlo.trips(module, loop) for loop in loops] == [9]


def test_names_of_types_give_their_width():
  wide = {'f32': 32, 'bf16': 16, 'pred': 8, 's4': 4, 'f8e5m2': 8, 'u64': 64}
  assert {k: hlo.bits(k) for k in wide} == wide
  assert np.dtype('float32').itemsize * 8 == hlo.bits('f32')
