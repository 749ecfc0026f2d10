"""A true SLURM on this machine: one controller, two nodes for CPU jobs and one with a GPU (a plain file), all on loopback.

    with cluster(folder) as slurm:
        slurm.run("sinfo")

Needs Debian's packages slurm-wlm and munge and the right to be root; `missing` says what of it is not there, and
`install` gets the packages. Everything lies in one folder and is stopped at the end, but for a link to slurm.conf at its
usual place: Snakemake's plugin takes SLURM_CONF away from the steps of a job, so these look there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scancel")
USUAL = Path("/etc/slurm/slurm.conf")
NODES = ("cpu1", "cpu2", "gpu1")
PORTS = {"controller": 16817, "cpu1": 16818, "cpu2": 16819, "gpu1": 16820}
CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MpiDefault=none
KillWait=2
MinJobAge=3600
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
GresTypes=gpu
NodeName=cpu1 NodeHostname={host} NodeAddr=127.0.0.1 Port={cpu1} CPUs={cpus} RealMemory=500000
NodeName=cpu2 NodeHostname={host} NodeAddr=127.0.0.1 Port={cpu2} CPUs={cpus} RealMemory=500000
NodeName=gpu1 NodeHostname={host} NodeAddr=127.0.0.1 Port={gpu1} CPUs={cpus} RealMemory=500000 Gres=gpu:1
PartitionName=cpu Nodes=cpu[1-2] Default=YES LLN=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes=gpu1 MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """A running SLURM, and the environment in which its commands find it."""

    folder: Path
    environment: dict[str, str]

    def run(self, *command: str) -> str:
        return subprocess.run(
            command, env=self.environment, check=True, text=True, capture_output=True, timeout=60
        ).stdout


def missing() -> str | None:
    """What is not there, in words; None where a SLURM can be started."""
    if os.geteuid() != 0:
        return "a SLURM can only be started by root"
    if USUAL.exists():
        return f"this machine has a SLURM of its own ({USUAL})"
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"{', '.join(absent)} not installed (Debian: apt-get install slurm-wlm munge)" if absent else None


def install() -> None:
    """Get the packages where this is a Debian with a network and we are root; say nothing where it fails."""
    if os.geteuid() == 0 and shutil.which("apt-get"):
        for command in ("update", "install -y --no-install-recommends slurm-wlm munge"):
            subprocess.run(["apt-get", *command.split()], check=False, capture_output=True, timeout=300)


@contextlib.contextmanager
def cluster(folder: Path, *, cpus: int = 4) -> Iterator[Slurm]:
    """Start a SLURM in `folder`, wait until all nodes are idle, and stop it at the end."""
    host = socket.gethostname().split(".")[0]
    for name in ("state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir(parents=True)
    (folder / "gpu0").touch()
    (folder / "slurm.conf").write_text(CONF.format(host=host, folder=folder, cpus=cpus, **PORTS))
    (folder / "gres.conf").write_text(f"NodeName=gpu1 Name=gpu File={folder}/gpu0\n")
    slurm = Slurm(folder=folder, environment=os.environ | {"SLURM_CONF": str(folder / "slurm.conf")})
    processes = []
    USUAL.unlink(missing_ok=True)  # a link left by a test that was killed, whose folder is gone
    USUAL.symlink_to(folder / "slurm.conf")
    try:
        processes.append(_munge(folder))
        logs = {name: (folder / f"{name}.out").open("w") for name in ("slurmctld", *NODES)}
        commands = {"slurmctld": ["slurmctld", "-D"]} | {node: ["slurmd", "-D", "-N", node] for node in NODES}
        for name, command in commands.items():
            processes.append(
                subprocess.Popen(command, env=slurm.environment, stdout=logs[name], stderr=subprocess.STDOUT)
            )
        _wait_for_nodes(slurm)
        yield slurm
    finally:
        USUAL.unlink()
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _munge(folder: Path) -> subprocess.Popen:
    """An authentication daemon with a key and a socket of its own."""
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    options = {"key-file": key, "socket": folder / "munge.socket"}
    options |= {f"{kind}-file": folder / f"munge.{kind}" for kind in ("pid", "log", "seed")}
    command = ["munged", "--foreground", "--force", *(f"--{name}={value}" for name, value in options.items())]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _until(lambda: (folder / "munge.socket").exists(), "munged to open its socket")
    return process


def _wait_for_nodes(slurm: Slurm) -> None:
    def idle() -> bool:
        try:
            return slurm.run("sinfo", "-h", "-N", "-o", "%T").split() == ["idle"] * len(NODES)
        except subprocess.CalledProcessError:
            return False

    _until(idle, f"{len(NODES)} idle nodes (logs in {slurm.folder})")


def _until(condition, what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.2)
