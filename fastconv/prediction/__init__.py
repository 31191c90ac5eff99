"""How long calls should take on a GPU, from its constants and the kernels' machine code: a
prediction, which says so wherever it is shown."""
