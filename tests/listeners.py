"""What a process listens on, as the kernel says."""

import contextlib
import ipaddress
import os
import pathlib
import re


def listening(pid: int) -> list[str]:
  """The addresses of a process at which others can reach it."""
  inodes = set()
  for fd in pathlib.Path(f'/proc/{pid}/fd').iterdir():
    with contextlib.suppress(OSError):
      inodes |= set(re.findall(r'socket:\[(\d+)\]', os.readlink(fd)))
  found = []
  for name in ('tcp', 'tcp6'):
    table = pathlib.Path(f'/proc/{pid}/net/{name}')
    for line in table.read_text().splitlines():
      fields = line.split()
      if fields[3] == '0A' and fields[9] in inodes:
        found.append(_address(fields[1].partition(':')[0]))
  return found


def _address(text: str) -> str:
  """Of /proc/net/tcp: words of four bytes, each in the machine's order."""
  raw = bytes.fromhex(text)
  raw = b''.join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
  address = ipaddress.ip_address(raw)
  return str(getattr(address, 'ipv4_mapped', None) or address)
