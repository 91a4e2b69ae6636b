import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from torch import nn

from monai_vessel_uda.data.patches import PatchDataset, RandSymmetryd
from monai_vessel_uda.diffusion import NoiseSchedule
from monai_vessel_uda.diffusion.ddim import seeded_noise
from monai_vessel_uda.engines.trainers import (
    PrepareNoisePrediction,
    PrepareSegmentation,
    moving_average,
    noise_trainer,
    segmentation_trainer,
)
from monai_vessel_uda.errors import InputError
from monai_vessel_uda.losses import VesselWeightedNoiseLoss


class Interrupted(Exception):
    pass


class LinearNoise(nn.Module):
    """The smallest noise prediction: one number times the input, another times the mask."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(2))

    def forward(self, x_t, timesteps, mask=None):
        return self.weights[0] * x_t + self.weights[1] * mask


@pytest.fixture
def patches():
    generator = torch.Generator().manual_seed(0)
    images = [
        {"image": torch.zeros(1, 8, 8), "label": (torch.rand(1, 8, 8, generator=generator) > 0.7).float()}
        for _ in range(4)
    ]
    return PatchDataset(images, RandSymmetryd(["image", "label"]), 0)


def run_until(trainer, stop_after):
    """Run to the end, or until an interruption after so many iterations."""
    if stop_after:

        def stop(engine):
            raise Interrupted

        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=stop_after), stop)
    try:
        trainer.run()
    except Interrupted:
        pass


def train_noise(patches, folder, stop_after=None, **changes):
    torch.manual_seed(0)
    network = LinearNoise()
    ema = EMAHandler(network, momentum=0.1)
    settings = {"iterations": 60, "iterations_per_epoch": 20, "batch_size": 4, "learning_rate": 0.02, **changes}
    trainer = noise_trainer(
        network, patches, ema, schedule=NoiseSchedule(), loss=VesselWeightedNoiseLoss(), output_dir=folder, **settings
    )
    run_until(trainer, stop_after)
    return network, ema.ema_model


def test_noise_is_learnt(patches, tmp_path):
    """With black images x_t is the noise times a known factor, so the first weight must grow towards one."""
    network, ema = train_noise(patches, tmp_path)
    assert network.weights[0] > 0.5
    assert 0 < ema.weights[0] < network.weights[0]
    rows = (tmp_path / "losses.csv").read_text().splitlines()
    assert rows[0] == "iteration,loss"
    losses = [float(row.split(",")[1]) for row in rows[1:]]
    assert len(losses) == 3
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize(("momentum", "iterations", "left"), [(0.1, 60, 0.9**60), (1e-4, 30, 0.025), (1e-4, 1, 0.025)])
def test_an_average_forgets_the_random_start(momentum, iterations, left):
    network = nn.Linear(1, 1, bias=False)
    nn.init.ones_(network.weight)
    ema = moving_average(network, momentum, iterations)
    trainer = Engine(lambda engine, batch: None)
    ema.attach(trainer)
    nn.init.zeros_(network.weight)
    trainer.run([0] * iterations, max_epochs=1)
    assert float(ema.ema_model.weight.detach()) == pytest.approx(left, rel=1e-3)


@pytest.mark.parametrize("stop_after", [7, 20, 33])
def test_interrupted_noise_training_ends_with_the_same_bits(patches, tmp_path, stop_after):
    whole = train_noise(patches, tmp_path / "whole")
    train_noise(patches, tmp_path / "cut", stop_after=stop_after)
    resumed = train_noise(patches, tmp_path / "cut")
    for a, b in zip(whole, resumed, strict=True):
        assert torch.equal(a.weights, b.weights)
    assert (tmp_path / "cut" / "losses.csv").read_text() == (tmp_path / "whole" / "losses.csv").read_text()


@pytest.mark.parametrize("per_epoch", [4, 40, 2])
def test_epochs_of_another_length_change_nothing_but_the_checkpoints(patches, tmp_path, per_epoch):
    settings = {"iterations": 80, "iterations_per_epoch": 8}
    whole = train_noise(patches, tmp_path / "whole", **settings)
    train_noise(patches, tmp_path / "cut", stop_after=43, **settings)
    resumed = train_noise(patches, tmp_path / "cut", **{**settings, "iterations_per_epoch": per_epoch})
    for a, b in zip(whole, resumed, strict=True):
        assert torch.equal(a.weights, b.weights)
    assert torch.load(tmp_path / "cut" / "checkpoint.pt")["iteration"] == 80


def test_a_checkpoint_within_an_epoch_is_refused(patches, tmp_path):
    train_noise(patches, tmp_path, stop_after=33)
    with pytest.raises(InputError, match="after 20 iterations, .* with 15 iterations per epoch; choose .* divides 20"):
        train_noise(patches, tmp_path, iterations_per_epoch=15)


def test_a_network_that_takes_several_arguments_is_called_in_bfloat16(patches, tmp_path):
    seen = []

    class Noise(LinearNoise):
        def forward(self, x_t, timesteps, mask=None):
            seen.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
            return super().forward(x_t, timesteps, mask)

    torch.manual_seed(0)
    network = Noise()
    settings = {"iterations": 60, "iterations_per_epoch": 20, "batch_size": 4, "learning_rate": 0.02}
    common = {"schedule": NoiseSchedule(), "loss": VesselWeightedNoiseLoss(), "output_dir": tmp_path, **settings}
    noise_trainer(network, patches, EMAHandler(network, momentum=0.1), amp=True, **common).run()
    assert seen == [torch.bfloat16] * 60
    assert network.weights[0] > 0.5


def test_a_loss_that_is_not_finite_stops_the_training_and_is_not_kept(patches, tmp_path):
    with pytest.raises(
        InputError, match="^generator: the loss is (nan|inf) after 20 iterations; lower the learning rate"
    ):
        train_noise(patches, tmp_path, learning_rate=1e38)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_checkpoint_of_other_settings_is_refused(patches, tmp_path):
    train_noise(patches, tmp_path, stop_after=30)
    with pytest.raises(InputError, match="other settings"):
        train_noise(patches, tmp_path, batch_size=2)


def test_a_checkpoint_of_another_architecture_is_refused(patches, tmp_path):
    train_noise(patches, tmp_path)
    state = torch.load(tmp_path / "checkpoint.pt")
    state["network"] = {"other": torch.zeros(3)}
    torch.save(state, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match="another architecture"):
        train_noise(patches, tmp_path)


@pytest.mark.parametrize("changes", [{"iterations": 0}, {"iterations": 50}, {"batch_size": 0}])
def test_impossible_counts(patches, tmp_path, changes):
    with pytest.raises(InputError):
        train_noise(patches, tmp_path, **changes)


def test_noise_of_a_patch_does_not_depend_on_its_batch(patches):
    prepare = PrepareNoisePrediction(NoiseSchedule())

    def batch(indices):
        chosen = [patches[i] for i in indices]
        return prepare({key: torch.stack([c[key] for c in chosen]) for key in chosen[0]}, torch.device("cpu"))

    x_t, (noise, mask), (timesteps, condition), _ = batch([0, 1, 2])
    alone = batch([2])
    assert torch.equal(x_t[2:], alone[0])
    assert torch.equal(noise[2:], alone[1][0])
    assert timesteps[2] == alone[2][0][0]
    assert condition is mask
    generator = torch.Generator().manual_seed(int(patches[0]["seed"]))
    assert timesteps[0] == torch.randint(1000, (1,), generator=generator)
    assert torch.equal(noise[:1], seeded_noise(noise[:1], [generator]))


def test_no_label_means_the_empty_mask(patches):
    prepare = PrepareNoisePrediction(NoiseSchedule())
    _, (_, mask), _, _ = prepare({"image": torch.ones(2, 1, 4, 4), "seed": torch.tensor([1, 2])}, torch.device("cpu"))
    assert not mask.any()


@pytest.mark.parametrize(("amp", "computed_in"), [(False, torch.float32), (True, torch.bfloat16)])
def test_segmenter_learns_and_resumes_with_the_same_bits(tmp_path, amp, computed_in):
    generator = torch.Generator().manual_seed(0)
    images = []
    for _ in range(4):
        mask = (torch.rand(1, 16, 16, generator=generator) > 0.7).float()
        images.append({"image": 2 * mask - 1 + 0.1 * torch.randn(1, 16, 16, generator=generator), "label": mask})
    patches = PatchDataset(images, RandSymmetryd(["image", "label"]), 0)

    dtypes = set()

    def loss(logits, label):
        assert logits.dtype == torch.float32
        return DiceCELoss(softmax=True, to_onehot_y=True, include_background=False)(logits, label)

    def train(folder, stop_after=None, iterations_per_epoch=20):
        torch.manual_seed(0)
        network = UNet(2, 1, 2, (4, 8), (2,), num_res_units=1)
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_hook(lambda layer, inputs, output: dtypes.add(output.dtype))
        trainer = segmentation_trainer(
            network,
            patches,
            loss=loss,
            output_dir=folder,
            iterations=80,
            iterations_per_epoch=iterations_per_epoch,
            batch_size=4,
            learning_rate=0.02,
            amp=amp,
        )
        run_until(trainer, stop_after)
        return network, trainer.optimizer.param_groups[0]["lr"]

    whole, rate = train(tmp_path / "whole")
    assert rate == pytest.approx(0, abs=1e-6)
    train(tmp_path / "cut", stop_after=50)
    resumed, rate = train(tmp_path / "cut", iterations_per_epoch=10)
    assert rate == pytest.approx(0, abs=1e-6)
    assert dtypes == {computed_in}
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)
        assert not a.is_floating_point() or a.dtype == torch.float32
    item = images[0]
    predicted = whole.eval()(item["image"][None]).argmax(1)
    assert (predicted == item["label"]).float().mean() > 0.95


def test_images_are_augmented_by_the_patches_own_seeds_and_labels_are_not(patches):
    batch = torch.utils.data.default_collate([patches[i] for i in range(3)])
    augmented = PrepareSegmentation(lambda images, seeds: images + seeds.view(-1, 1, 1, 1))
    image, label = augmented(batch, torch.device("cpu"))
    assert torch.equal(image, batch["image"] + batch["seed"].view(-1, 1, 1, 1))
    assert torch.equal(label, batch["label"])
    assert torch.equal(PrepareSegmentation()(batch, torch.device("cpu"))[0], batch["image"])


def test_image_and_label_are_deformed_together_before_the_augmentation(patches):
    batch = torch.utils.data.default_collate([patches[i] for i in range(3)])
    prepare = PrepareSegmentation(
        lambda images, seeds: images + 1, lambda images, labels, seeds: (images.flip(2) * 2, labels.flip(2))
    )
    image, label = prepare(batch, torch.device("cpu"))
    assert torch.equal(image, batch["image"].flip(2) * 2 + 1)
    assert torch.equal(label, batch["label"].flip(2))


def test_only_the_trained_timesteps_are_drawn(patches):
    batch = torch.utils.data.default_collate([patches[i] for i in range(200)])
    _, _, (timesteps, _), _ = PrepareNoisePrediction(NoiseSchedule(), 300)(batch, torch.device("cpu"))
    assert 280 < timesteps.max() < 300
    assert timesteps.min() < 20
    _, _, (timesteps, _), _ = PrepareNoisePrediction(NoiseSchedule())(batch, torch.device("cpu"))
    assert timesteps.max() > 950


def test_patches_are_weighed_by_their_timesteps(patches):
    batch = torch.utils.data.default_collate([patches[i] for i in range(50)])
    schedule = NoiseSchedule()
    _, target, (timesteps, _), _ = PrepareNoisePrediction(schedule, min_snr_gamma=2.0)(batch, torch.device("cpu"))
    _, _, weight = target
    ratio = schedule.signal_to_noise(timesteps)
    assert torch.allclose(weight, (2 / ratio).clamp(max=1).float())
    assert weight.min() < 0.1 and weight.max() == 1
    with pytest.raises(InputError, match="^min_snr_gamma: expected null or a positive number, got 0$"):
        PrepareNoisePrediction(schedule, min_snr_gamma=0)


def test_weighed_timesteps_are_learnt_with(patches, tmp_path):
    """With black images only the noise's own factor is to be learnt, which differs between timesteps."""
    alike, _ = train_noise(patches, tmp_path / "alike")
    weighed, _ = train_noise(patches, tmp_path / "weighed", min_snr_gamma=0.1)
    assert weighed.weights[0] > 0.3
    assert not torch.equal(alike.weights, weighed.weights)


@pytest.mark.parametrize("count", [0, 1001])
def test_impossible_numbers_of_trained_timesteps_are_refused(count):
    with pytest.raises(InputError, match="trained_timesteps"):
        PrepareNoisePrediction(NoiseSchedule(), count)
