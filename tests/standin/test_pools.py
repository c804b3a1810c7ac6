"""CuPy's memory pools (cupy/cuda/memory.pyx) on a device whose memory can run out."""

import gc

import numpy as np
import pytest


@pytest.fixture
def memory(machine):
    """The device's memory, after the default pool has given its cached blocks back."""
    import cupy

    cupy.get_default_memory_pool().free_all_blocks()
    return machine.device.memory


def test_blocks_are_whole_units_of_512_bytes_and_stay_cached(memory):
    import cupy

    pool, before = cupy.get_default_memory_pool(), memory.used
    used = pool.used_bytes()
    x = cupy.empty(129, np.float32)
    assert (memory.used - before, pool.used_bytes() - used) == (1024, 1024)
    address = x.data.ptr
    del x
    assert (memory.used - before, pool.used_bytes() - used) == (1024, 0)
    assert cupy.empty(200, np.float32).data.ptr == address
    pool.free_all_blocks()
    assert memory.used == before


def test_a_block_goes_back_to_its_own_stream(memory):
    import cupy

    x = cupy.empty(100, np.float32)
    address = x.data.ptr
    del x
    with cupy.cuda.Stream(non_blocking=True):
        assert cupy.empty(100, np.float32).data.ptr != address
    assert cupy.empty(100, np.float32).data.ptr == address


def test_a_dropped_pool_keeps_its_device_memory(memory):
    """The arena and its free chunks hold each other, so only `free_all_blocks` gives them back."""
    import cupy

    pool, before = cupy.cuda.MemoryPool(), memory.used
    for keep in (False, True):
        with cupy.cuda.using_allocator(pool.malloc):
            cupy.empty(2**20, np.uint8)
        if keep:
            pool.free_all_blocks()
            assert memory.used == before
        else:
            pool = cupy.cuda.MemoryPool()
            gc.collect()
            assert memory.used == before + 2**20
            before = memory.used


def test_the_device_says_how_much_is_free(memory):
    import cupy

    free, total = cupy.cuda.Device(0).mem_info
    assert free == cupy.cuda.runtime.memGetInfo()[0] == total - memory.used
    x = cupy.empty(2**20, np.uint8)
    assert cupy.cuda.Device(0).mem_info == (free - 2**20, total)
    memory.unit = 2**21  # as a real driver counts
    y = cupy.empty(2**20, np.uint8)
    assert cupy.cuda.Device(0).mem_info == (free - 2**20 - 2**21, total)
    del x, y
    cupy.get_default_memory_pool().free_all_blocks()
    assert cupy.cuda.Device(0).mem_info == (free, total)


def test_out_of_memory_gives_cached_blocks_back_before_it_raises(memory):
    import cupy

    memory.total = memory.used + 3 * 2**20
    x = cupy.empty(2**21, np.uint8)
    del x  # it stays cached, which leaves too little for what follows
    y = cupy.empty(5 * 2**19, np.uint8)
    with pytest.raises(cupy.cuda.memory.OutOfMemoryError, match="Out of memory allocating 1,048,576 bytes"):
        cupy.empty(2**20, np.uint8)
    assert isinstance(cupy.cuda.memory.OutOfMemoryError(1, 1), MemoryError)
    del y
    assert cupy.empty(2**20, np.uint8).nbytes == 2**20


def test_an_allocator_is_one_threads(memory):
    import threading

    import cupy

    pool, seen = cupy.cuda.MemoryPool(), []
    with cupy.cuda.using_allocator(pool.malloc):
        thread = threading.Thread(target=lambda: seen.append(cupy.empty(100, np.float32)))
        thread.start()
        thread.join()
    assert pool.total_bytes() == 0
    assert len(seen) == 1


def test_an_empty_array_has_no_address(machine):
    import cupy

    assert cupy.empty(0, np.float32).data.ptr == 0
