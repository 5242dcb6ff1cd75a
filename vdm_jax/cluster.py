"""Which of several processes this one is, and where they meet."""

import dataclasses
import ipaddress
import os
import socket

from vdm_jax import errors

_LOCAL_SIZES = ('SLURM_STEP_TASKS_PER_NODE', 'OMPI_COMM_WORLD_LOCAL_SIZE')


@dataclasses.dataclass(frozen=True)
class Place:
  """Where a process stands among the others.

  Attributes:
    coordinator: host:port of the first process.
    processes: how many there are.
    process: which one this is, from 0.
    devices: the local devices that it may use; None for all.
  """

  coordinator: str
  processes: int
  process: int
  devices: tuple[int, ...] | None = None

  @property
  def listen(self) -> str:
    """host:port at which the first process listens: one address, not all."""
    chosen = os.environ.get('JAX_COORDINATOR_BIND_ADDRESS')
    return chosen or bind_address(self.coordinator)


def place(
  coordinator: str = '', processes: int = 0, process: int = -1
) -> Place | None:
  """The place that flags or the cluster give a process; None if it is alone.

  Args:
    coordinator: host:port; '' if not given.
    processes: 1 runs alone even on a cluster; 0 if not given.
    process: −1 if not given. Without any of the three, the environment
      decides: TPU pods, Slurm, Open MPI, and indexed jobs of Kubernetes.

  Raises:
    ConfigError: the flags do not fit together.
  """
  if processes == 1 and process in (-1, 0):
    return None
  given = bool(coordinator), processes != 0, process != -1
  if not any(given):
    return _of_cluster()
  if not all(given):
    raise errors.ConfigError(
      f'--coordinator={coordinator} --processes={processes} '
      f'--process={process} are not complete; give all three, or '
      '--processes=1 to run alone'
    )
  if processes < 1 or not 0 <= process < processes:
    raise errors.ConfigError(
      f'--process={process} is none of --processes={processes}; number them '
      'from 0'
    )
  _, _, port = coordinator.rpartition(':')
  if ':' not in coordinator or not port.isdecimal():
    raise errors.ConfigError(
      f'--coordinator={coordinator} is not host:port; name the first process '
      "and a free port there, such as 10.0.0.1:8476, in every process's flags"
    )
  return Place(coordinator, processes, process)


def _of_cluster() -> Place | None:
  # JAX finds clusters behind a private door only; the public one would have
  # the coordinator listen on all interfaces.
  from jax._src import clusters

  for env in clusters.ClusterEnv._cluster_types:
    if env.opt_in_only_method:
      continue
    if env.name == 'k8s' and 'JOB_COMPLETION_INDEX' not in os.environ:
      continue  # a pod that is no part of a job
    if not env.is_env_present():
      continue
    if env.get_process_count() == 1:
      return None
    found = env.auto_detect_unset_distributed_params(
      None, None, None, None, env.name, 300
    )
    devices = found[3] and tuple(found[3])
    sizes = [os.environ[k] for k in _LOCAL_SIZES if k in os.environ]
    if sizes and sizes[0].partition('(')[0] == '1':
      devices = None  # the only process of its machine has all devices
    return Place(*found[:3], devices)
  return None


def bind_address(coordinator: str) -> str:
  """The one address of this machine that the coordinator should listen on.

  Args:
    coordinator: host:port, as all processes know it.
  """
  host, _, port = coordinator.rpartition(':')
  host = host.strip('[]')
  address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0]
  named = host == 'localhost' or _is_address(host)
  loopback = ipaddress.ip_address(address).is_loopback
  # The machine's name may stand for its loopback, or, behind a translation of
  # addresses, for one that it does not have.
  if (loopback and not named) or not _is_own(address):
    address = _outward() or address
  return f'[{address}]:{port}' if ':' in address else f'{address}:{port}'


def _is_address(host: str) -> bool:
  try:
    ipaddress.ip_address(host)
  except ValueError:
    return False
  return True


def _is_own(address: str) -> bool:
  family = socket.AF_INET6 if ':' in address else socket.AF_INET
  with socket.socket(family, socket.SOCK_STREAM) as s:
    try:
      s.bind((address, 0))
    except OSError:
      return False
  return True


def _outward() -> str | None:
  """The address that this machine has in its network; nothing is sent."""
  with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    try:
      s.connect(('192.0.2.1', 9))
    except OSError:
      return None
    return s.getsockname()[0]
