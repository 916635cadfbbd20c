"""Names of hardware: what their numbers count, their chips and topologies, and errors about unknown ones."""

import pytest

from timesformer_jax import InputError
from timesformer_jax.planning import CHIPS, TARGETS, find_target
from timesformer_jax.planning.gpus import GPUS, target_config


@pytest.mark.parametrize(
    ("name", "platform", "topology", "chips"),
    [
        ("v4-8", "tpu", "v4:2x2x1", 4),  # TensorCores, two a chip
        ("v5p-64", "tpu", "v5p:2x4x4", 32),
        ("v5e-1", "tpu", "v5e:1x1", 1),
        ("v5e-8", "tpu", "v5e:2x4", 8),  # chips
        ("v5e-256", "tpu", "v5e:16x16", 256),
        ("v6e-8", "tpu", "v6e:2x4", 8),
        ("v6e-16", "tpu", "v6e:4x4", 16),
        ("v5e:4x4", "tpu", "v5e:4x4", 16),
        ("V5P:2x2x1", "tpu", "v5p:2x2x1", 4),
        ("h100", "cuda", "1x1x1", 1),
        ("a100-40gb", "cuda", "1x1x1", 1),
        ("l4", "cuda", "1x1x1", 1),
        ("local", "local", "", 0),
    ],
)
def test_find_target_knows_each_name(name: str, platform: str, topology: str, chips: int):
    target = find_target(name)
    assert (target.platform, target.topology, target.num_chips) == (platform, topology, chips)
    assert target.chip in CHIPS or name == "local"


def test_every_topology_has_its_number_of_chips():
    for name, target in TARGETS.items():
        if target.platform == "tpu":
            assert find_target(target.topology).num_chips == target.num_chips, name


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("v5p-6", r"counts TensorCores, two a chip: use one of v5p-8, v5p-16, .*such as v5p:2x2x4"),
        ("v5e-12", r"counts chips: use one of v5e-1, v5e-4, v5e-8, "),
        ("h10", r"Did you mean 'h100'"),
        ("a100", r"Did you mean .*'a100-40gb'"),
        ("v5e:4x4x4", r"a topology of v5e looks like v5e:4x4\."),
        ("cray", r"Known ones: v4-8, .*local, or a topology such as v5e:4x4"),
    ],
)
def test_find_target_suggests_similar_names(name: str, hint: str):
    with pytest.raises(InputError, match=rf"plan\.target={name}.*{hint}"):
        find_target(name)


def test_every_chip_has_its_peaks():
    for name, chip in CHIPS.items():
        assert min(chip.peak, chip.memory_gib, chip.hbm) > 0, name
        assert (chip.clock > 0) == (chip.link > 0) == (name not in GPUS), name
    assert (CHIPS["v5e"].peak, CHIPS["v5p"].peak, CHIPS["v6e"].peak) == (197, 459, 918)


def test_target_config_describes_the_gpu():
    text = target_config("l4")
    assert "cuda_compute_capability { major: 8 minor: 9 }" in text
    assert "shared_memory_per_block_optin: 101376 " in text  # 99 KiB
    assert "memory_bandwidth: 300100000000 " in text
