"""Plain networks of torch's own layers, randomly initialised; fastconv.convert swaps the layers."""
