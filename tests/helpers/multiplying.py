"""What a backend is asked to multiply with which precision."""

from gpunet.backends.contract import Conv, LinearGrad, Product

PRIMITIVES = (
    "batched_matmul", "conv2d_forward", "conv2d_input_grad", "conv2d_weight_grad", "conv_transpose2d", "linear_cross_entropy",
    "linear_forward", "linear_weight_grads", "matmul",
)  # fmt: skip


def asked_of(backend, monkeypatch):
    """A list that takes (primitive, precision) of each call from now on, without those that primitives make."""
    calls, inside = [], []

    def watch(name):
        right = getattr(backend, name)

        def call(*given, **options):
            if not inside:
                calls.extend((name, precision) for precision in precisions_of(given, options))
            inside.append(name)
            try:
                return right(*given, **options)
            finally:
                inside.pop()

        monkeypatch.setattr(backend, name, call)

    for name in PRIMITIVES:
        watch(name)
    return calls


def precisions_of(given, options):
    """The precision of a call, or of each layer that it is given; "float32" where the call does not say."""
    layers = next((a for a in given if isinstance(a, list) and a and isinstance(a[0], LinearGrad)), None)
    if layers is not None:
        return [layer.precision for layer in layers]
    described = [a.precision for a in [*given, *options.values()] if isinstance(a, Conv | Product)]
    return described or [options.get("precision", "float32")]
