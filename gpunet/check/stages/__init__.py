"""The stages of `gpunet check`: one module for each, whose function `run` takes the `Stage`."""
