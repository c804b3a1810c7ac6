"""Calls NCCL on two ranks: ``nccl_calls.py`` prints ``RANK NAME: ok`` for each check, or why not."""

import traceback

import cupy
import ml_dtypes
import nccl.core
import numpy as np
from nccl.bindings.nccl import NCCLError, Result

from gpunet.backends import get_backend
from gpunet.distributed import world
from gpunet.distributed.nccl import NcclRanks, why_unavailable
from gpunet.errors import BackendError


def raised(kind, function, *arguments):
    """The message of the error that a call must raise."""
    try:
        function(*arguments)
    except kind as error:
        return str(error)
    raise AssertionError(f"{function} has not raised {kind}")


def each_rank_has_a_device_of_its_own():
    assert backend.name == "cuda"
    assert backend.cuda_device == rank
    assert get_backend("cuda:1").cuda_device == get_backend("cuda:1").asarray(np.ones(1)).device.id == 1
    assert why_unavailable(world(), backend.cuda_device) == ""


def sums_are_those_of_all_ranks_in_every_dtype():
    for dtype in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int32, np.int64):
        own = np.array([1, 2.5, 300], dtype) * np.array(rank + 1, dtype)
        array = backend.asarray(own)
        joined.add(array)
        expected = (own * 0 + np.array([1, 2.5, 300], dtype)) * np.array(3, dtype)
        np.testing.assert_array_equal(backend.to_numpy(array), expected.astype(dtype), err_msg=str(dtype))


def several_arrays_are_sent_together_and_empty_ones_not_at_all():
    arrays = [backend.asarray(np.full(shape, rank + 1.0, np.float32)) for shape in ((), (2, 3), (0, 4), (5,))]
    joined.add(*arrays)
    for array in arrays:
        np.testing.assert_array_equal(backend.to_numpy(array), np.full(array.shape, 3.0))


def copies_are_the_first_ranks():
    one, other = (backend.asarray(np.arange(4, dtype=dtype) + rank) for dtype in (np.float32, np.int64))
    joined.copy_from_first(one, other)
    for array in (one, other):
        np.testing.assert_array_equal(backend.to_numpy(array), np.arange(4))


def a_call_comes_behind_what_its_stream_has_to_do():
    stream = backend.arrays.make_stream()
    with backend.arrays.on(stream):
        array = backend.full((1000,), rank + 1.0, np.float32)
        joined.add(array)
        array = backend.scale(array, None, 2.0)
        np.testing.assert_array_equal(backend.to_numpy(array), np.full(1000, 6.0))


def a_sum_that_has_begun_is_there_behind_its_wait():
    with backend.arrays.on(backend.arrays.make_stream()):
        array, other = (backend.full((1000,), rank + 1.0, np.float32) for _ in range(2))
        array = backend.scale(array, None, 2.0)
        wait = joined.begin_add(array)
        other = backend.scale(other, None, 3.0)  # which the sum leaves alone
        wait()
        array = backend.scale(array, None, 2.0)
        np.testing.assert_array_equal(backend.to_numpy(array), np.full(1000, 12.0))
        np.testing.assert_array_equal(backend.to_numpy(other), np.full(1000, 3.0 * (rank + 1)))


def sums_that_have_begun_in_a_graph_come_between_what_is_before_and_behind_them():
    """The stand-in replays a graph's side stream as late as it may, then as early, in turns."""
    recorder = backend.recorder()
    array, result = (backend.full((8,), 0.0, np.float32) for _ in range(2))

    def work():
        backend.copy(backend.full((8,), rank + 1.0, np.float32), out=array)
        wait = joined.begin_add(array)
        backend.copy(backend.full((8,), 5.0, np.float32), out=result)
        wait()
        backend.copy(backend.binary("add", array, result), out=result)

    with recorder.current():
        graph, _ = recorder.record(work)
        for _ in range(4):
            graph.launch()
            np.testing.assert_array_equal(backend.to_numpy(result), np.full(8, 8.0))


def a_captured_sum_is_made_by_each_replay():
    recorder = backend.recorder()
    array = backend.full((8,), 1.0, np.float32)
    with recorder.current():
        graph, _ = recorder.record(lambda: joined.add(array))
        np.testing.assert_array_equal(backend.to_numpy(array), np.ones(8))
        for times in (2, 4, 8):
            graph.launch()
            np.testing.assert_array_equal(backend.to_numpy(array), np.full(8, times))


def a_part_of_an_array_is_added_in_place():
    array = backend.full((8,), 1.0, np.float32)
    joined.add(array[2:5])
    np.testing.assert_array_equal(backend.to_numpy(array), [1, 1, 2, 2, 2, 1, 1, 1])


def arrays_with_gaps_are_refused():
    array = backend.full((4, 4), 1.0, np.float32)
    assert "NCCL: add takes C-contiguous arrays, got strides (4, 16)" in raised(ValueError, joined.add, array.T)
    assert "copy_from_first takes C-contiguous" in raised(ValueError, joined.copy_from_first, array[:, 1:])


def arrays_of_another_device_are_refused_by_name():
    other = get_backend(f"cuda:{1 - rank}").full((3,), 1.0, np.float32)
    who = f"failed on rank {rank} of 2, <CUDA Device {rank}>: NcclInvalid: "
    assert f"NCCL: add {who}sendbuf is on device {1 - rank}, but" in raised(BackendError, joined.add, other)
    name = "sendbuf" if rank == 0 else "recvbuf"
    assert f"NCCL: copy_from_first {who}{name} is on" in raised(BackendError, joined.copy_from_first, other)


def dtypes_that_nccl_lacks_are_refused():
    assert "Unsupported data type" in raised(BackendError, joined.add, cupy.ones(3, np.complex64))


def an_error_leaves_no_group_open():
    good, bad = backend.full((3,), 1.0, np.float32), get_backend(f"cuda:{1 - rank}").full((3,), 1.0, np.float32)
    raised(BackendError, joined.add, bad)
    joined.add(good)
    np.testing.assert_array_equal(backend.to_numpy(good), np.full(3, 2.0))


def ranks_that_differ_are_found_by_the_stand_in():
    array = backend.full((3 + rank,), 1.0, np.float32)
    assert "('all_reduce', 'float32', 4)" in raised(BackendError, joined.add, array)


def communicators_that_are_none_or_not_alone_on_a_device_are_refused_by_the_stand_in():
    array = backend.full((3,), 1.0, np.float32)
    none = nccl.core.Communicator()
    told = raised(nccl.core.NcclInvalid, none.allreduce, array, array, nccl.core.SUM)
    assert told == "Cannot allreduce: Communicator not initialized"
    unique = nccl.core.UniqueId.from_bytes(world().from_first(bytes(nccl.core.get_unique_id())))
    with cupy.cuda.Device(0):
        assert "InvalidUsage" in raised(NCCLError, nccl.core.Communicator.init, 2, rank, unique)
    assert "InvalidArgument" in raised(NCCLError, nccl.core.Communicator.init, 3, rank, unique)
    recorder = backend.recorder()
    with recorder.current():
        told = raised(NCCLError, recorder.record, lambda: nccl.core.Communicator.init(2, rank, unique))
    assert Result.UnhandledCudaError.name in told


rank, backend = world().rank, get_backend("auto")
joined = NcclRanks(world(), backend.cuda_device)

if __name__ == "__main__":
    checks = [
        made for made in vars().copy().values() if getattr(made, "__module__", "") == "__main__" and made is not raised
    ]
    told = []
    for check in checks:
        try:
            check()
            told.append(f"{rank} {check.__name__}: ok")
        except Exception:
            told.append(f"{rank} {check.__name__}: {traceback.format_exc()}")
    for lines in world().gather("what the checks have found", told):
        print("\n".join(lines))
