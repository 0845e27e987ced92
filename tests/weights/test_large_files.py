"""What one weight of a very large file costs in memory."""

import json
import struct
import subprocess
import sys

import pytest

MEASURE = """
import sys
from helpers import weights
def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) * 1024
base = weights.open_base(sys.argv[1])
base.weight("small")
start = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # sets the high-water mark back to the present
base.weight("wanted")
print(status("VmHWM") - start)
"""


@pytest.mark.parametrize(("kind", "size"), [("F32", 4), ("BF16", 2)])
def test_one_weight_of_a_large_file_costs_at_most_three_times_itself(tmp_path, kind, size):
    side, other = 4096, 4 * 2**30
    wanted, small = side * side * size, 1024 * 1024 * size
    ends = [other, other + wanted, other + wanted + small]
    header = {
        "other.weight": {"dtype": "U8", "shape": [other], "data_offsets": [0, ends[0]]},
        "wanted.weight": {"dtype": kind, "shape": [side, side], "data_offsets": ends[:2]},
        "small.weight": {"dtype": kind, "shape": [1024, 1024], "data_offsets": ends[1:]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (tmp_path / "model.safetensors").open("wb") as file:  # sparse: it takes no room on the disk
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + ends[-1])
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)], check=True, capture_output=True, encoding="utf-8"
    )
    assert int(run.stdout) <= 3 * wanted
