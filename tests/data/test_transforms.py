import pytest
import torch
from torch.nn.functional import interpolate

from fedbraid.core import ImageInput
from fedbraid.data import AUGMENTATIONS, prepare
from fedbraid.data.transforms import flip, padded_crop, resized_crop
from fedbraid.errors import UserError

RANDOM = [name for name in AUGMENTATIONS if name != "none"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=seeded(5))


def test_normalisation_is_that_of_the_definition():
    pixels, spec = images(4, 3, 8, 8), ImageInput(8, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    expected = pixels.double() / 255
    for c in range(3):
        expected[:, c] = (expected[:, c] - spec.mean[c]) / spec.std[c]
    assert torch.allclose(prepare(pixels, spec).double(), expected, atol=1e-6)


def test_resizing_is_bicubic_with_antialias():
    pixels = images(2, 3, 20, 20)
    spec = ImageInput(7, mean=(0.0,) * 3, std=(1.0,) * 3)
    expected = interpolate(pixels.float() / 255, size=(7, 7), mode="bicubic", antialias=True).clamp(0, 1)
    assert torch.equal(prepare(pixels, spec), expected)


@pytest.mark.parametrize("augment", AUGMENTATIONS)
@pytest.mark.parametrize("shape", [(3, 1, 8, 8), (3, 3, 9, 14), (1, 3, 40, 20)])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_comes_out_as_the_backbone_reads_it(augment, shape, channels):
    spec = ImageInput(16, channels, mean=(0.5,) * channels, std=(0.5,) * channels)
    result = prepare(images(*shape), spec, augment=augment, generator=seeded())
    assert result.shape == (shape[0], channels, 16, 16)
    assert result.dtype == torch.float32
    assert result.min() >= -1.00001
    assert result.max() <= 1.00001


def test_grey_and_colour():
    grey = images(2, 1, 8, 8)
    result = prepare(grey, ImageInput(8))
    assert torch.equal(result[:, 0], result[:, 2])
    white = torch.full((1, 3, 8, 8), 255, dtype=torch.uint8)
    assert torch.allclose(prepare(white, ImageInput(8, 1, (0.0,), (1.0,))), torch.ones(1, 1, 8, 8))


@pytest.mark.parametrize("augment", RANDOM)
def test_chance_comes_from_the_generator_alone(augment):
    pixels, spec, before = images(16, 3, 32, 32), ImageInput(32), torch.get_rng_state()
    first, again, other = (prepare(pixels, spec, augment=augment, generator=seeded(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("augment", RANDOM)
def test_images_of_a_batch_are_augmented_apart(augment):
    pixels = images(1, 3, 32, 32).expand(32, -1, -1, -1)
    result = prepare(pixels, ImageInput(32), augment=augment, generator=seeded())
    assert len(result.flatten(1).unique(dim=0)) > 1


def test_a_flip_mirrors_about_half():
    pixels = images(400, 1, 4, 4).float()
    result = flip(pixels, seeded())
    same, mirrored = ((result == version).flatten(1).all(1) for version in (pixels, pixels.flip(-1)))
    assert (same | mirrored).all()
    assert 150 < mirrored.sum() < 250


def test_a_padded_crop_is_a_shift():
    pixels = images(50, 2, 16, 16).float() + 1
    result = padded_crop(pixels, seeded())
    seen = set()
    for before, after in zip(pixels, result, strict=True):
        shifts = [
            (y, x)
            for y in range(-2, 3)
            for x in range(-2, 3)
            if torch.equal(
                after[:, max(-y, 0) : 16 - max(y, 0), max(-x, 0) : 16 - max(x, 0)],
                before[:, max(y, 0) : 16 + min(y, 0), max(x, 0) : 16 + min(x, 0)],
            )
        ]
        assert len(shifts) == 1
        seen.add(shifts[0])
    assert len(seen) > 15


def test_a_resized_crop_stays_inside_and_keeps_what_is_constant():
    gradient = torch.arange(64.0).view(1, 1, 1, 64).expand(200, 1, 48, 64)
    result = resized_crop(gradient, 24, seeded())
    assert result.shape == (200, 1, 24, 24)
    assert -1e-3 <= result.min() < 5
    assert 58 < result.max() <= 63.001
    assert (result[..., 1:] >= result[..., :-1] - 1e-3).all()


@pytest.mark.parametrize(
    ("spec", "augment", "message"),
    [
        (ImageInput(8), "blur", "no augmentation 'blur'"),
        (ImageInput(8, channels=4), "none", "4 channels"),
        (ImageInput(8, channels=1), "none", "mean and std have 3 and 3"),
    ],
)
def test_refusals(spec, augment, message):
    with pytest.raises(UserError, match=message):
        prepare(images(1, 3, 8, 8), spec, augment=augment)


def test_a_missing_generator_is_a_defect():
    with pytest.raises(ValueError, match="needs a generator"):
        prepare(images(1, 3, 8, 8), ImageInput(8), augment="flip")
