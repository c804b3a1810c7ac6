"""No altered checkpoint is loaded, whatever was altered: the campaign of `altered_files.py`, and a search for faults."""

import struct
from random import Random

import altered_files
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gpunet as gp
from gpunet.interop import load_checkpoint, load_weights


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    return altered_files.Campaign(tmp_path_factory.mktemp("altered"))


def assert_refused(campaign, altered):
    """Unless it is the good file itself."""
    if altered in (campaign.good, campaign.other):
        return
    campaign.path.write_bytes(altered)
    for load in (load_checkpoint, load_weights):
        with pytest.raises(gp.DamagedFileError) as caught:
            load(campaign.path, campaign.parts["model"])
        assert "\n" not in str(caught.value)
    with pytest.raises(gp.DamagedFileError):
        load_checkpoint(campaign.path, **campaign.parts)
    assert altered_files.values(campaign.parts) == campaign.before


def test_the_good_files_load(campaign):
    for content in (campaign.good, campaign.other):
        campaign.path.write_bytes(content)
        load_checkpoint(campaign.path, **altered_files.make(1))


def test_a_campaign_of_all_kinds_of_alterations_finds_no_fault(tmp_path):
    found = altered_files.run(tmp_path, files=1400, seed=0)
    assert found.faults == []
    assert found.refused + found.unchanged == 1400
    assert found.unchanged < 30
    assert found.longest < 5


@pytest.mark.skipif(not altered_files.Path("/proc/self/clear_refs").exists(), reason="Linux alone tells the peak")
def test_altered_files_take_no_more_memory_than_twice_their_size(tmp_path):
    found = altered_files.memory_in_a_child(tmp_path, 15, 0)
    assert found["size"] > 15e6
    assert found["altered"] < found["size"]
    assert found["opened"] < 2 * found["size"]


@given(at=st.integers(0, 2**20), bit=st.integers(0, 7))
def test_every_flipped_bit_is_refused(campaign, at, bit):
    altered = bytearray(campaign.good)
    altered[at % len(altered)] ^= 1 << bit
    assert_refused(campaign, bytes(altered))


@given(at=st.integers(0, 2**20), removed=st.integers(0, 40), inserted=st.binary(max_size=40))
def test_bytes_that_are_removed_inserted_or_replaced_are_refused(campaign, at, removed, inserted):
    at %= len(campaign.good) + 1
    assert_refused(campaign, campaign.good[:at] + inserted + campaign.good[at + removed :])


@given(length=st.integers(0, 2**64 - 1))
def test_every_other_length_of_the_header_is_refused(campaign, length):
    assert_refused(campaign, struct.pack("<Q", length) + campaign.good[8:])


@given(kind=st.sampled_from(altered_files.KINDS), seed=st.integers(0, 2**32))
def test_every_kind_of_alteration_is_refused(campaign, kind, seed):
    assert_refused(campaign, kind(Random(seed), campaign.good, campaign.other))


@given(content=st.binary(max_size=300))
def test_what_is_no_file_of_tensors_is_refused(campaign, content):
    assert_refused(campaign, content)
