"""Trains a model: from a config and a workdir to checkpoints and a gallery."""

import dataclasses
import json
import pathlib
import time
from typing import Any

import jax
import numpy as np

from vdm_jax import (
  build,
  checkpoint,
  checks,
  claims,
  distributed,
  ensemble,
  errors,
  goodput,
  identity,
  lock,
  logs,
  loop,
  optim,
  origin,
  preflight,
  refine,
  request,
  rng,
  runtime,
  sample,
  sharding,
  storage,
)
from vdm_jax import state as state_lib
from vdm_jax import step as step_lib
from vdm_jax.data import pipeline
from vdm_jax.generate import Generator
from vdm_jax.media import gallery
from vdm_jax.nn import inflation
from vdm_jax.progress import duration

PyTree = Any


def run(config, workdir: pathlib.Path, devices=None, began=None):
  """Trains until `config.train.steps`, from the newest checkpoint if any.

  Leaves in the workdir: `config.json`, `checkpoints/`, `metrics.jsonl`,
  `samples/` and the gallery `index.html`.

  Args:
    config: the settings, validated.
    workdir: where the run lives; a new folder, one of the same config, or one
      without a checkpoint.
    devices: the devices to train on, all by default.
    began: when the start of the run began, for `goodput.json`; now if None.

  Raises:
    UserError: for whatever the user can mend; see `errors`.
  """
  account = goodput.Goodput(workdir, began=began)
  c = config.train
  mesh = sharding.of_config(config, devices)
  sharding.check_batch(mesh, c.batch_size, c.accumulate)
  claims.refuse_other(workdir, config)
  checks.settings(config)
  source, told = build.data(config)
  checks.same_data(source, told, config)
  checks.data(source, config)
  model = build.model(config, told)
  sharding.check_space(mesh, model, refine.training_size(config))
  if config.sample.count:
    request.check(config, told)  # a mistake in it ends the run here
  begin = origin.check(config, told, model, mesh, workdir)
  with lock.hold(workdir), account:
    new = claims.is_new(workdir)
    if new:
      claims.claim(workdir, config)
    account.open()
    trainer = Trainer(config, workdir, mesh, source, told, model, account)
    # Compiled before anything is restored, so that a model that does not fit
    # ends here; and before the processes first wait for each other's devices.
    with account.spend('compiling'):
      init, abstract, compiled = programs(
        config, model, mesh, trainer.shapes, trainer.check
      )
    distributed.barrier('compiled')
    with trainer.checkpoints:
      state = trainer.restore(abstract)
      if state is None:
        state = trainer.begin(init, begin)
      if not new:
        claims.claim(workdir, config)  # for what may change between two starts
      distributed.barrier('ready')
      trainer.fit(compiled, state)


def programs(config, model, mesh, shapes, check=None):
  """The programs of training: (init, the abstract state, the compiled step).

  Args:
    config: the whole config.
    model: the network.
    mesh: the devices.
    shapes: of a batch, as of `batch_shapes`.
    check: called with the abstract state before anything compiles.
  """
  init, abstract, step = pure_programs(config, model, mesh)
  if check:
    check(abstract)
  runtime.say(
    f'{parameter_count(abstract.params) / 1e6:.2f} M parameters on '
    f'{mesh.size} {jax.devices()[0].device_kind} device(s), '
    + ' × '.join(f'{name} {count}' for name, count in mesh.shape.items())
  )
  if config.optim.rates:
    runtime.say(optim.table(abstract.params, config.optim.rates))
  return init, abstract, compile_step(step, abstract, shapes)


def pure_programs(config, model, mesh):
  """(init, the abstract state, the step), of which nothing is compiled."""
  tx = build.optimizer(config)
  init, abstract = make_init(config, model, tx, mesh)
  step = step_lib.make_train_step(
    sharding.by_example(model.apply, mesh),
    tx,
    build.objective(config),
    seed=config.seed,
    ema_decay=config.optim.ema,
    accumulate=config.train.accumulate,
    place=sharding.video_sharding(mesh),
  )
  return init, abstract, step


def make_init(config, model, tx, mesh):
  """A function that makes the first state in place, and its abstract state.

  Called with the parameters of another network, it starts from them.
  Shapes come first, then shardings, then arrays: no parameter is ever made
  whole on one device if fsdp splits it.
  """
  sizes = {'frames': config.data.frames, 'size': refine.training_size(config)}

  def init(start=None):
    key = rng.stream(config.seed, 'init')
    params = state_lib.init_params(model, key, **sizes)
    if start is not None:
      params, _ = inflation.inflate(start, params)
    return state_lib.create(params, tx)

  shapes = jax.eval_shape(init)
  shardings = sharding.tree_shardings(mesh, shapes)
  abstract = checkpoint.abstract_like(shapes, shardings)
  # It runs once: on a CPU, compiling it well costs more than it saves.
  fast = {'xla_backend_optimization_level': 0}
  return (
    jax.jit(
      init,
      out_shardings=shardings,
      compiler_options=fast if jax.default_backend() == 'cpu' else None,
    ),
    abstract,
  )


def trace_step(step_fn, abstract, batch_shapes):
  """The step for these shapes and places, its state donated; to compile."""
  shardings = jax.tree.map(lambda a: a.sharding, abstract)
  step = jax.jit(step_fn, donate_argnums=0, out_shardings=(shardings, None))
  return step.trace(abstract, batch_shapes)


def compile_step(step_fn, abstract, batch_shapes):
  """The step as an executable; prints how long it took and what it needs."""
  begin = time.monotonic()
  compiled = trace_step(step_fn, abstract, batch_shapes).lower().compile()
  memory = compiled.memory_analysis()
  text = ''
  if memory is not None:
    needed = (
      memory.argument_size_in_bytes
      + memory.output_size_in_bytes
      + memory.temp_size_in_bytes
      - memory.alias_size_in_bytes
    )
    text = f'; the compiler expects {needed / 2**30:.2f} GiB a device'
  seconds = time.monotonic() - begin
  runtime.say(f'the step compiled in {seconds:.0f} s{text}')
  return compiled


def batch_shapes(config, told, mesh) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes and shardings of a batch on the devices."""
  c, size = config.data, config.train.batch_size
  slots, length = 1 + c.images, config.text.max_length
  video = (c.frames + c.images, c.size, c.size, 3)
  shapes = {'video': (video, np.uint8)}
  if told.classes:
    shapes['label'] = ((slots,) if c.images else (), np.int32)
  if told.text == 'words':
    shapes['text'] = ((slots, length), np.int32)
  if told.text == 'embeddings':
    shapes['text'] = ((slots, length, told.text_dim), np.float32)
  if told.text2_dim:
    shapes['text2'] = ((slots, length, told.text2_dim), np.float32)
  for n in told.texts:
    shapes[f'text{n}_mask'] = ((slots, length), np.bool_)
  if told.strides:
    shapes['stride'] = ((), np.int32)
  places = dict.fromkeys(shapes, sharding.batch_sharding(mesh))
  places['video'] = sharding.video_sharding(mesh)
  return {
    k: jax.ShapeDtypeStruct((size, *shape), dtype, sharding=places[k])
    for k, (shape, dtype) in shapes.items()
  }


def to_devices(local: dict[str, np.ndarray], shapes) -> dict[str, jax.Array]:
  """This process's share of a batch, as parts of the global arrays."""
  return {
    k: jax.make_array_from_process_local_data(s.sharding, local[k])
    for k, s in shapes.items()
  }


def parameter_count(params: PyTree) -> int:
  """How many numbers a tree of parameters holds."""
  return sum(int(np.prod(p.shape)) for p in jax.tree.leaves(params))


class Trainer:
  """The loop of one run, and what it writes to the workdir."""

  def __init__(self, config, workdir, mesh, source, told, model, account):
    self.config = config
    self.account = account
    self.workdir = workdir
    self.source = source
    self.told = told
    self.origin = None  # of its first parameters
    self.checkpoints = checkpoint.Checkpoints(
      workdir, keep=config.train.keep, strict=config.train.strict_resume
    )
    self.shapes = batch_shapes(config, told, mesh)
    self.rows = sharding.own_rows(mesh, config.train.batch_size)
    self.generate = Generator(config, model, mesh)
    self.signature = json.loads(
      json.dumps(
        pipeline.data_signature(
          source, batch_size=config.train.batch_size, seed=config.seed
        )
      )
    )

  def check(self, abstract):
    """Refuses what cannot be continued or stored; reads no array."""
    self.checkpoints.require_room(abstract)
    if self.checkpoints.steps():
      trained = sample.trained_with(self.checkpoints, self.config)
      trained.refuse_other_encoders(self.told)
      meta = self.checkpoints.newest_meta()
      self.checkpoints.require_fit(meta, abstract)
      self.refuse_other_data(meta)

  def refuse_other_data(self, meta: dict) -> str:
    """What has changed in the data of a checkpoint; see `preflight`."""
    allowed = self.config.train.allow_data_change
    return preflight.refuse_data(meta['data'], self.signature, allowed=allowed)

  def restore(self, abstract):
    """The newest good state of the workdir, or None."""
    found = self.checkpoints.restore(abstract)
    if found is None:
      return None
    state, meta = found
    changed = self.refuse_other_data(meta)
    if changed and jax.process_index() == 0:
      runtime.warn(changed)
    self.origin = origin.recorded(meta, self.config)
    runtime.say(f'continuing from step {int(state.step)}')
    return state

  def begin(self, init, start: origin.Origin | None):
    """The state before the first step, of new parameters or another run's."""
    if start is None:
      return init()
    params, self.origin = start.restore()
    return init(params)

  def meta(self) -> dict:
    """What a checkpoint says beside its arrays."""
    return {
      'config': json.loads(identity.to_json(self.config)),
      'data': self.signature,
      'prior': dataclasses.asdict(build.objective(self.config).prior),
      'conditions': dataclasses.asdict(self.told),
      'origin': self.origin,
    }

  def fit(self, compiled, state):
    """Steps until the end, or until the process is asked to stop."""
    if int(state.step) >= self.config.train.steps:
      runtime.say(f'already trained for {int(state.step)} steps')
    self.account.restored(int(state.step))
    state = loop.run(
      state,
      lambda s, batch: compiled(s, to_devices(batch, self.shapes)),
      config=self.config,
      workdir=self.workdir,
      source=self.source,
      rows=self.rows,
      account=self.account,
      after=self.after_step,
      checkpoints=self.checkpoints,
    )
    with self.account.spend('saving'):
      self.checkpoints.close()
    if self.config.sample.count and ensemble.is_whole(self.config):
      with self.account.spend('sampling'):
        self.finish(state)
    runtime.say(self.account.line())

  def after_step(self, state, n: int, window, watchdog, *, stopping: bool):
    """Saves and shows the state of step n, where it is time to.

    Raises:
      Preempted: the process was asked to stop, and the state is saved.
    """
    c = self.config.train
    stopping = stopping or self.checkpoints.reached_preemption(n)
    save = n % c.checkpoint_every == 0 or n == c.steps or stopping
    look = n == c.sample_first or (c.sample_every and n % c.sample_every == 0)
    self.checkpoints.poll()
    if not (save or look):
      return
    jax.block_until_ready(state.step)  # a step that hangs is the watchdog's
    with watchdog.allow(distributed.PATIENCE):
      # Steps that changed nothing must not push good checkpoints out.
      if save and (window.changed() or stopping or n == c.steps):
        self.account.saved(n)
        with self.account.spend('saving'):
          self.checkpoints.save(state, self.meta())
      if stopping and n < c.steps:
        with self.account.spend('saving'):
          self.checkpoints.wait()
        raise errors.Preempted(
          f'asked to stop; step {n} is saved, and the same command continues '
          'from there'
        )
      if look and n < c.steps and ensemble.is_whole(self.config):
        with self.account.spend('sampling'):
          self.show(state, n)

  def show(self, state, step: int):
    """Writes a set of samples and the gallery, while training."""
    c, data = self.config.train, (self.config, self.told, self.source)
    wanted = request.plain(*data, count=c.sample_count, steps=c.sample_steps)
    clips = self.draw(state, wanted, quiet=True)
    if jax.process_index() == 0:
      with storage.spared(f'the samples of step {step}'):
        name = f'step_{step:07d}'
        sample.write(self.config, self.workdir, clips, name=name, step=step)
        self.gallery(step)
    distributed.barrier('shown')

  def draw(self, state, wanted: request.Request, **options) -> sample.Clips:
    """Samples of the averaged parameters."""
    model = sample.Model(
      self.config, state.ema_params, self.generate, self.told, int(state.step)
    )
    return sample.in_memory(model, wanted, **options)

  def gallery(self, step: int, scores=None):
    """Makes the page of a step anew from what the workdir holds."""
    rows = logs.read(self.workdir / 'metrics.jsonl')
    names = list(dict.fromkeys(k for r in rows for k in r if 'loss' in k))
    return gallery.rebuild(
      self.workdir,
      title=self.config.name,
      facts=sample.facts(self.config)
      | {'step': step}
      | {'goodput': f'{self.account.summary()["goodput"]:.0%}'},
      scores=[scores] if scores else None,
      curve={name: logs.curve(rows, name) for name in names},
    )

  def finish(self, state):
    """The final samples, their scores, and where to look."""
    c, begin = self.config, time.monotonic()
    clips = self.draw(state, request.at_the_end(c, self.told, self.source))
    if jax.process_index():
      return
    sample.write(c, self.workdir, clips, name='final', title='Final samples')
    scores = sample.score(c, clips)
    page = self.gallery(int(state.step), scores)
    seconds = time.monotonic() - begin
    runtime.say(
      f'{len(clips.videos)} samples in {duration(seconds)}: open {page}'
    )
    sample.print_scores(scores)
