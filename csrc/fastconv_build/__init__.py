"""How the native modules are built: the CUDA toolkit (toolkit.py), ninja (native.py), and which
packages a build needs (backend.py). Run by setup.py and by pip; nothing here is installed."""
