"""python fsdp_on_cpu.py SCRIPT FLAGS: FSDP among CPU processes; Accelerate has it for GPUs only."""

import runpy
import sys
from pathlib import Path

from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

plain = AcceleratorState.__init__


def sharded(self, *args, fsdp_plugin=None, **options):
    plain(self, *args, fsdp_plugin=fsdp_plugin, **options)
    if fsdp_plugin is not None:
        self.fsdp_plugin = fsdp_plugin
    if "fsdp_plugin" in self.__dict__:
        self.distributed_type = DistributedType.FSDP


AcceleratorState.__init__ = sharded
sys.argv = sys.argv[1:]
sys.path.insert(0, str(Path(sys.argv[0]).parent))
runpy.run_path(sys.argv[0], run_name="__main__")
