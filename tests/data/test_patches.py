import pickle

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from torch.utils.data import DataLoader

from monai_vessel_uda.data.patches import PatchDataset, PatchSampler, RandPatchd, RandSymmetryd, ShardedPairs
from monai_vessel_uda.errors import InputError


@pytest.fixture
def images():
    rows = torch.arange(20.0)[:, None].expand(20, 24)
    columns = torch.arange(24.0).expand(20, 24)
    return [{"image": (i * 1000 + rows * 30 + columns)[None], "label": (columns > 12).float()[None]} for i in range(3)]


def dataset(images, seed=0):
    keys = ["image", "label"]
    return PatchDataset(images, Compose([RandPatchd(keys, (8, 8)), RandSymmetryd(keys)]), seed)


def test_patch_depends_on_its_number_and_seed_alone(images):
    forwards = [dataset(images)[i] for i in range(6)]
    backwards = [dataset(images)[i] for i in reversed(range(6))][::-1]
    for a, b in zip(forwards, backwards, strict=True):
        assert torch.equal(a["image"], b["image"])
        assert a["seed"] == b["seed"]
    assert not torch.equal(forwards[0]["image"], forwards[1]["image"])
    assert not torch.equal(forwards[0]["image"], dataset(images, 1)[0]["image"])


def test_workers_draw_the_same_patches(images):
    def patches(workers):
        loader = DataLoader(dataset(images), 4, sampler=PatchSampler(8), num_workers=workers)
        return torch.cat([batch["image"] for batch in loader])

    assert torch.equal(patches(0), patches(2))


def test_image_and_label_move_together_and_every_symmetry_occurs(images):
    orientations = set()
    for i in range(80):
        patch = dataset(images)[i]
        image = patch["image"] % 1000
        assert torch.equal(patch["label"], (image % 30 > 12).float())
        orientations.add((round(float(image[0, 0, 1] - image[0, 0, 0])), round(float(image[0, 1, 0] - image[0, 0, 0]))))
    steps = {(a, b) for a in (1, -1) for b in (30, -30)}
    assert orientations == steps | {(b, a) for a, b in steps}


def test_unequal_sides_keep_their_order():
    transform = RandSymmetryd("image").set_random_state(0)
    shapes = {tuple(transform({"image": torch.zeros(1, 4, 6)})["image"].shape) for _ in range(20)}
    assert shapes == {(1, 4, 6)}


def test_patches_stay_where_centres_allow(images):
    centres = torch.zeros(1, 20, 24)
    centres[0, 9, 13] = 1
    transform = RandPatchd("image", (8, 8)).set_random_state(0)
    for _ in range(5):
        patch = transform({"image": images[0]["image"], "centres": centres})["image"]
        assert patch[0, 0, 0] == 5 * 30 + 9


def test_every_window_occurs_without_centres(images):
    transform = RandPatchd("image", (19, 24)).set_random_state(0)
    corners = {float(transform({"image": images[0]["image"]})["image"][0, 0, 0]) for _ in range(40)}
    assert corners == {0.0, 30.0}


def test_no_allowed_centre_takes_the_middle(images):
    patch = RandPatchd("image", (8, 8))({"image": images[0]["image"], "centres": torch.zeros(1, 20, 24)})["image"]
    assert patch.shape == (1, 8, 8)


def test_patch_larger_than_the_image_names_it(images):
    with pytest.raises(InputError, match="fundus 7"):
        RandPatchd("image", (32, 8))({"image": images[0]["image"], "id": "fundus 7"})


def test_no_images():
    with pytest.raises(InputError, match="at least one image"):
        PatchDataset([], RandSymmetryd("image"), 0)


def test_patches_carry_no_metadata(images):
    tracked = [{key: MetaTensor(value) for key, value in item.items()} for item in images]
    patch = dataset(tracked)[0]
    assert type(patch["image"]) is torch.Tensor
    assert torch.equal(patch["image"], dataset(images)[0]["image"])


def test_epochs_and_processes_partition_the_patches():
    whole, parts = PatchSampler(6), [PatchSampler(6, 2, rank) for rank in range(2)]
    for sampler in (whole, *parts):
        sampler.set_epoch(3)
    assert list(whole) == list(range(12, 18))
    assert sorted([*parts[0], *parts[1]]) == list(whole)
    assert len(parts[0]) == 3


def test_shards_read_as_one_list(tmp_path):
    for shard in range(2):
        image = torch.full((3, 1, 4, 4), float(shard)) + torch.arange(3.0).view(3, 1, 1, 1) / 10
        torch.save({"image": image, "label": torch.ones(3, 1, 4, 4).byte()}, tmp_path / f"{shard:05d}.pt")
    pairs = ShardedPairs(str(tmp_path))
    assert len(pickle.dumps(pairs)) < 1000, "loader processes get the folder, not the tensors"
    assert torch.equal(pickle.loads(pickle.dumps(pairs))[0]["image"], pairs[0]["image"])
    assert len(pairs) == 6
    assert [round(float(pair["image"][0, 0, 0]), 1) for pair in pairs] == [0.0, 0.1, 0.2, 1.0, 1.1, 1.2]
    assert pairs[5]["label"].dtype == torch.float32
    assert len(pairs[:4]) == 4


def test_no_shards(tmp_path):
    with pytest.raises(InputError, match="run the mining first"):
        ShardedPairs(str(tmp_path))
