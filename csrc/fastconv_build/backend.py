"""The build backend of pyproject.toml: setuptools', plus a CUDA compiler from PyPI where
FASTCONV_CUDA=1 asks for CUDA kernels and the machine has no toolkit."""

from setuptools import build_meta as _setuptools
from setuptools.build_meta import *  # noqa: F403 - the hooks that stay as they are

from .toolkit import wheel_requirements


def get_requires_for_build_wheel(config_settings=None):
    return _setuptools.get_requires_for_build_wheel(config_settings) + wheel_requirements()


def get_requires_for_build_editable(config_settings=None):
    return _setuptools.get_requires_for_build_editable(config_settings) + wheel_requirements()
