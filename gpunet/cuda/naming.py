"""Names of kernel instances: a kernel's name, and C types and numbers as its template arguments."""

ELEMENTS = {"float32": "float", "float16": "half", "bfloat16": "bfloat16"}
"""The dtypes of elements, and their C types. They are for storage: kernels add up in float32."""


def instance(kernel: str, *arguments: object) -> str:
    """Return the name of an instance: ``instance("fill", "float")`` is ``"fill<float>"``."""
    words = [str(a).lower() if isinstance(a, bool) else str(a) for a in arguments]
    return f"{kernel}<{', '.join(words)}>" if words else kernel
