"""The router: makes the namespaces of a trial, and carries IP packets between them.

    python -P -m trials.router '{"nodes": 3, "seed": 0, "mtu": 1500, "user": false, ...}'

Each node's namespace has loopback and one TUN device, whose other end this process holds. The
namespaces have no names: they live as long as this process and those that run in them. It ends when
its standard input does, and whatever still runs in a namespace then is killed. So nothing is left
behind, even where the program that started it was killed.

Orders are lines of JSON on standard input; each is answered by a line on standard output.
"""

from __future__ import annotations

import ctypes
import fcntl
import ipaddress
import json
import os
import selectors
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import attrs

from trials.shaping import Fabric, NetworkPlan

NEWNS: Final = 0x00020000
NEWUSER: Final = 0x10000000
NEWNET: Final = 0x40000000
_TUNSETIFF: Final = 0x400454CA
_TUN_NO_PI: Final = 0x1001
DEVICE: Final = "line"
CONGESTION: Final = Path("/proc/sys/net/ipv4/tcp_congestion_control")
BATCH: Final = 64
"""Packets taken from a device before the others have their turn."""
GRACE: Final = 3.0
"""Seconds for what runs in the namespaces to end by itself, once the trial is gone."""
FIRST: Final = -19
"""Its niceness: before all that it joins."""
PACKETS: Final = 10_000
"""Packets that wait in the kernel for this process: more than any queue of a line holds."""


def call(name: str, *arguments: Any) -> None:
    """Call a function of the C library. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _run(*words: str, given: str = "") -> None:
    done = subprocess.run(words, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        what = f"{' '.join(words)}: {done.stderr.strip()}"
        raise OSError(what)


def _set_hosts(text: str) -> None:
    with Path("/etc/hosts").open("w", encoding="utf-8") as file:  # in place: it is mounted
        file.write(text)


def _unshare(plan: NetworkPlan) -> None:
    """Leave the machine's own namespaces, and have a hosts file of one's own."""
    user, group = os.geteuid(), os.getegid()
    call("unshare", NEWNS | (NEWUSER if plan.user else 0))
    if plan.user:
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1", encoding="ascii")
    _run("mount", "--make-rprivate", "/")
    # A file in memory, which nobody has to remove, and whose folder is seen by nobody.
    _run("mount", "-t", "tmpfs", "none", "/mnt")
    Path("/mnt/hosts").write_text(plan.hosts, encoding="utf-8")
    _run("mount", "--bind", "/mnt/hosts", "/etc/hosts")
    _run("umount", "--lazy", "/mnt")


def _namespace(plan: NetworkPlan, addresses: Sequence[str]) -> tuple[int, int]:
    """Make a namespace; file descriptors of its device's other end, and of itself."""
    call("unshare", NEWNET)
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    asked = struct.pack("16sH22x", DEVICE.encode(), _TUN_NO_PI)
    fcntl.ioctl(device, _TUNSETIFF, asked)
    steps = ["link set lo up"]
    steps += [f"link set {DEVICE} mtu {plan.mtu} txqueuelen {PACKETS} up"]
    for address in addresses:
        wide = ":" in address
        length = f"{address}/{plan.prefixes[wide]}"
        steps.append(f"addr add {length} dev {DEVICE}{' nodad' if wide else ''}")
    _run("ip", "-batch", "-", given="\n".join(steps) + "\n")
    if plan.congestion:
        CONGESTION.write_text(plan.congestion, encoding="ascii")
    return device, os.open("/proc/thread-self/ns/net", os.O_RDONLY)


class Router:
    """Carries packets, and does what it is told.

    Args:
        plan: what was made.
        devices: the TUN device of each node.
    """

    def __init__(self, plan: NetworkPlan, devices: Sequence[int]) -> None:
        self._fabric = Fabric(plan.nodes, plan.seed)
        self._devices = devices
        self._mtu = plan.mtu
        self._owner = {
            _packed(address): index
            for index, addresses in enumerate(plan.addresses)
            for address in addresses
        }
        self._elsewhere = 0  # packets for nobody here: multicast
        self._unwritten = 0  # packets that a device did not take
        self._late = 0.0  # seconds, the most that a packet was delivered after it was due
        self._control = bytearray()
        self._open = True

    def run(self) -> None:
        """Until standard input ends."""
        selector = selectors.DefaultSelector()
        for index, device in enumerate(self._devices):
            selector.register(device, selectors.EVENT_READ, index)
        selector.register(0, selectors.EVENT_READ, -1)
        while self._open:
            due = self._fabric.next
            wait = None if due is None else max(0.0, due - time.monotonic())
            for key, _events in selector.select(wait):
                if key.data < 0:
                    self._hear()
                else:
                    self._read(key.data)
            self._deliver()

    def _read(self, index: int) -> None:
        device, take, owner = self._devices[index], self._fabric.take, self._owner
        for _ in range(BATCH):
            try:
                packet = os.read(device, self._mtu)
            except BlockingIOError:
                return
            # The receiver's address, in a header of IPv4 or IPv6.
            to = packet[16:20] if packet[0] >> 4 == 4 else packet[24:40]
            target = owner.get(to, index)
            if target == index:
                self._elsewhere += 1
            else:
                take(time.monotonic(), index, target, packet)

    def _deliver(self) -> None:
        now = time.monotonic()
        for at, target, packet in self._fabric.due(now):
            self._late = max(self._late, now - at)
            try:
                os.write(self._devices[target], packet)
            except OSError:
                self._unwritten += 1

    def _hear(self) -> None:
        data = os.read(0, 2**16)
        self._open = bool(data)
        self._control += data
        *lines, rest = self._control.split(b"\n")
        self._control = bytearray(rest)
        for line in lines:
            print(json.dumps(self._do(json.loads(line))), flush=True)

    def _do(self, order: Mapping[str, Any]) -> Any:
        match order:
            case {"do": "lines", "nodes": nodes, "set": dict(values)}:
                for index in nodes:
                    for line in (self._fabric.up[index], self._fabric.down[index]):
                        _assign(line, values)
            case {"do": "paths", "pairs": pairs, "set": dict(values)}:
                for source, target in pairs:
                    _assign(self._fabric.paths[source, target], values)
            case {"do": "hosts", "text": str(text)}:
                _set_hosts(text)
            case {"do": "counts"}:
                return self._counts()
            case _:
                return {"error": f"{order!r} is no order"}
        return {}

    def _counts(self) -> dict[str, Any]:
        late, self._late = self._late, 0.0
        paths = [
            [*pair, attrs.asdict(path.counts)] for pair, path in sorted(self._fabric.paths.items())
        ]
        others = {"elsewhere": self._elsewhere, "unwritten": self._unwritten, "late": late}
        return {"paths": paths, **others, "processor": time.process_time()}


def _assign(shaped: Any, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if not hasattr(shaped, name):
            raise AttributeError(name)
        setattr(shaped, name, value)


def _packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def inhabitants(namespaces: Sequence[int]) -> Iterator[int]:
    """The processes that run in namespaces, which are given by open files; not this one."""
    wanted = {os.fstat(namespace).st_ino for namespace in namespaces}
    for place in Path("/proc").iterdir():
        if place.name.isdecimal() and int(place.name) != os.getpid():
            with suppress(OSError):
                if (place / "ns" / "net").stat().st_ino in wanted:
                    yield int(place.name)


def _clear(namespaces: Sequence[int]) -> None:
    """Wait for what runs in the namespaces to end, then kill it, frozen or not."""
    end = time.monotonic() + GRACE
    while (left := list(inhabitants(namespaces))) and time.monotonic() < end:
        time.sleep(0.2)
    for process in left:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def main() -> None:
    """Make what is asked for, say so, and carry packets."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the end of the input ends it
        signal.signal(number, signal.SIG_IGN)
    devices: list[int] = []
    namespaces: list[int] = []
    try:
        plan = NetworkPlan(**json.loads(sys.argv[1]))
        _unshare(plan)
        for addresses in plan.addresses:
            device, namespace = _namespace(plan, addresses)
            devices.append(device)
            namespaces.append(namespace)
    except OSError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    with suppress(OSError):  # what it joins must not keep it waiting, where it may say so
        os.setpriority(os.PRIO_PROCESS, 0, FIRST)
    print(json.dumps({"process": os.getpid(), "namespaces": namespaces}), flush=True)
    try:
        Router(plan, devices).run()
    finally:
        _clear(namespaces)


if __name__ == "__main__":
    main()
