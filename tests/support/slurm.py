"""A real Slurm, on machines that are namespaces of this one."""

import os
import shutil
import signal
import subprocess

from machines import Machines, wait_until

COMMANDS = ('munged', 'sbatch', 'scontrol', 'slurmctld', 'slurmd', 'srun')
GPUS = 8  # files that stand for GPUs on each node; nothing is limited or bound
# partitions: jobs of gpu are queued again by those of urgent. A requeued job waits for 5 seconds, on a cluster for 120
CONFIG = """
ClusterName=test
SlurmctldHost=node0({address})
SlurmUser=root
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool.%n
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdTimeout=60
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=20
ReturnToService=2
MailProg=/bin/true
GresTypes=gpu
NodeName=node[1-{count}] CPUs=64 RealMemory=4000 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=gpu Nodes=ALL Default=YES PriorityTier=1 State=UP
PartitionName=urgent Nodes=ALL PriorityTier=9 PreemptMode=OFF State=UP
"""


def cannot_have_slurm() -> str:
    """Say which commands of Slurm are missing; empty if none is."""
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    return f'needs {", ".join(missing)} (slurmctld, slurmd, slurm-client, munge)' if missing else ''


class Slurm(Machines):
    """Machines with Slurm: node0 is where one submits, the others run jobs; each claims 64 cores and 8 GPUs."""

    def __enter__(self) -> 'Slurm':
        super().__enter__()
        try:
            self._start_slurm()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start_slurm(self) -> None:
        folder = self.folder
        for name in ('state', 'gpus'):
            (folder / name).mkdir()
        for number in range(GPUS):
            (folder / 'gpus' / f'gpu{number}').touch()
        facts = dict(folder=folder, count=self.count, address=self.address(0), gpus=GPUS)
        (folder / 'slurm.conf').write_text(CONFIG.format(**facts))
        devices = f'{folder}/gpus/gpu[0-{GPUS - 1}]'
        (folder / 'gres.conf').write_text(f'NodeName=node[1-{self.count}] Name=gpu File={devices}\n')
        # version 22.05 refuses "disabled"
        (folder / 'cgroup.conf').write_text('CgroupPlugin=cgroup/v1\n')
        key = folder / 'munge.key'
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = {'socket': 'socket', 'pid-file': 'pid', 'log-file': 'log', 'seed-file': 'seed'}
        options = [f'--{option}={folder}/munge.{name}' for option, name in files.items()]
        subprocess.run(['munged', '--force', f'--key-file={key}', *options], check=True, capture_output=True)
        self.environment['SLURM_CONF'] = str(folder / 'slurm.conf')
        self.output(0, 'slurmctld', '-c')
        for node in range(1, self.count + 1):
            self.output(node, 'slurmd', '-c', '-N', f'node{node}')
        wait_until(lambda: self.idle() == self.count, 30, lambda: f'not all nodes are idle; see {folder}')

    def __exit__(self, *_: object) -> None:
        try:
            super().__exit__()  # with slurmctld, slurmd and all jobs
        finally:
            self._end_munge()

    def _end_munge(self) -> None:
        munge = self.folder / 'munge.pid'
        if munge.is_file():
            os.kill(int(munge.read_text()), signal.SIGTERM)
            wait_until(lambda: not munge.is_file(), 10)

    def idle(self) -> int:
        """Return how many nodes have nothing to do."""
        try:
            listed = self.output(0, 'sinfo', '--noheader', '--Node', '--partition=gpu', '--format=%T')
        except subprocess.CalledProcessError:  # slurmctld is not ready
            return 0
        return listed.split().count('idle')

    def submit(self, *words: object) -> str:
        """Submit a job; return its number."""
        return self.output(0, 'sbatch', '--parsable', *words).strip()

    def state(self, job: str) -> str:
        """Return the state of a job: PENDING, RUNNING, COMPLETED, ..."""
        shown = self.output(0, 'scontrol', 'show', 'job', job)
        return shown.partition('JobState=')[2].split()[0]
