"""How a `.cu` file becomes a launch: source, signature, compilation, launch, and the compile-only gate."""
