"""Altered files of other programs: a sample of the campaign of `foreign_files.py`."""

import os
import signal

import foreign_files
import pytest

# from Python 3.12 on; the forked process calls h5py alone
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


@pytest.mark.parametrize(("reader", "files"), [("safetensors", 280), ("h5", 110), ("keras", 84)])
def test_altered_files_of_weights_change_all_of_a_model_or_nothing(tmp_path, reader, files):
    found = foreign_files.run(tmp_path, reader, files, seed=0)
    assert found.faults == []
    assert found.refused + found.loaded == files
    assert min(found.refused, found.loaded) > files / 10


def test_the_process_of_h5py_reads_altered_files_as_the_campaign_does(tmp_path):
    found = foreign_files.run(tmp_path, "h5", 6, seed=1, fresh=True)
    assert found.faults == []


def test_a_worker_that_crashes_is_counted_and_started_again(monkeypatch, tmp_path):
    campaign = foreign_files.Campaign(tmp_path, "h5")
    before = foreign_files.Worker.crashed
    with foreign_files.read_apart():
        monkeypatch.setattr(foreign_files.hdf5_contents, "report", lambda path: os.kill(os.getpid(), signal.SIGKILL))
        campaign.path.write_bytes(campaign.good)
        with pytest.raises(ValueError, match="h5py ended by signal 9"):
            campaign.load(campaign.model, campaign.path)
    assert foreign_files.Worker.crashed == before + 1
