import pytest


@pytest.fixture(scope="module", autouse=True)
def _one_torch_thread():
    """PyTorch's waiting threads and ours would fight over few cores."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
