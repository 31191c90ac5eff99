"""The clock, power and temperature of the GPU, by which a reader tells a throttled run.

All three are averages that the driver keeps over its last sample period, up to a second: read right
after a line was timed, they are those of its kernels.
"""

import subprocess

import torch

FIELDS = ("gpu_clock_mhz", "gpu_power_w", "gpu_temperature_c")
_QUERY = "clocks.sm,power.draw,temperature.gpu"


def _by_torch():
    """Through pynvml, which torch's functions need."""
    clock, milliwatts = torch.cuda.clock_rate(), torch.cuda.power_draw()
    return clock, milliwatts / 1e3, torch.cuda.temperature()


def _number(text):
    try:
        return float(text)
    except ValueError:  # "[N/A]"
        return None


def _by_nvidia_smi():
    # By its UUID: CUDA may number the devices in another way.
    uuid = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
    command = ["nvidia-smi", f"--id=GPU-{uuid}", f"--query-gpu={_QUERY}"]
    command += ["--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    return [_number(text) for text in done.stdout.split(",")]


def gpu_state():
    """{field of a Row: number} of the current device, None for what nobody here can tell."""
    for read in (_by_torch, _by_nvidia_smi):
        try:
            return dict(zip(FIELDS, read(), strict=True))
        except Exception:  # no pynvml, no nvidia-smi, a driver or device without such a sensor
            continue
    return dict.fromkeys(FIELDS)
