"""What `gpunet check` looks at: a module for each stage, whose `run` takes the stage."""
