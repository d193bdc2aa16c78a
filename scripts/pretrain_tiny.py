"""Pre-train the tiny ViT that ships in `src/fedbraid/models/tiny`, from fonts alone.

What: characters of many fonts (letters of several alphabets, punctuation, signs; no number of any kind) are
rendered once, distorted in batches until they look like pen strokes averaged down to 8x8, and a ViT learns to
name them. Only the backbone is kept, as a plain Hugging Face folder.

Why: the default run learns handwritten digits class by class. It needs a backbone that is really pre-trained,
has never seen a digit and comes without a download. Same fonts, options and threads: same weights.

    OMP_NUM_THREADS=2 python scripts/pretrain_tiny.py --fonts DIR
"""

import json
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import typer
from PIL import Image, ImageFont
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

# Pixels a side of a stored glyph (sklearn's digits were 32x32 too), of an averaged one, of the model's input.
GLYPH, SMALL, INPUT = 32, 8, 16
MEAN, STD = 0.5, 0.5
SYSTEM_FONTS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/Library/Fonts")

# Characters of one word share a class: at 8x8 they cannot be told apart. Those of ALONE have one each.
ALIKE = """
AΑАА BΒВ CcСсϹϲ EΕЕ HΗНн IlΙІ|ı JЈ KkΚКкκ MΜМмϺ NΝ OoΟοОо PpΡρРр SsЅѕ TΤТт UuՍ VvνѴѵ WwԜԝ XxΧχХх
YΥУҮ ZzΖ eе tτ yу Бб Дд Жж Ии Йй Лл Цц Чч Шш Щщ Ъъ Ыы Ьь Ээ Юю Яя Ґґ
"""
ALONE = r"""
DFGLQRabdfghijmnqrвЋЂЊФЄєЇαβγδεζηθιλμξπσφψωΓΔΘΛΞΠΣΦΨΩ
אבגדהזחטיכלמנסעפצקרשתםךףץ აბგდევზთიკლმნპჟრსტუფქღყშჩცძწჭხჯჰ
あいうえおかきくけこさしすせそたちつてとなにぬねのはひふほまみむめもやゆよらりるれろわをん
アイウエオカキクケコサシスセソタチツテトナニヌネノハヒフホマミムメモヤユヨラリルレロワヲン
!?&@#$%*+=<>/\()[]{}~^§¶÷±€£¥©ßÞþðæÆøØ∞∂∑∏√∫≠≤≥†‡¿¡¢ÿñåç
"""
CLASSES = [*ALIKE.split(), *"".join(ALONE.split())]
FACES, HELD_OUT = 4, 0.1  # at most so many files of a font family; the share of fonts kept for the test
PROCESSOR = {"image_processor_type": "ViTImageProcessor", "do_rescale": True, "rescale_factor": 1 / 255}
PROCESSOR |= {"do_resize": True, "size": {"height": INPUT, "width": INPUT}, "resample": 2}
PROCESSOR |= {"do_normalize": True, "image_mean": [MEAN], "image_std": [STD]}


class Glyphs(NamedTuple):
    """One row per drawing: images (n, 2, 32, 32) uint8 (glyph, skeleton), labels (n,), held_out (n,)."""

    images: Tensor
    labels: Tensor
    held_out: Tensor


def font_files(folder: Path | None) -> list[Path]:
    """Every .ttf and .otf under `folder`, or under the system's font folders, sorted by name."""
    roots = [folder] if folder else [Path(name).expanduser() for name in SYSTEM_FONTS]
    found = (path for root in roots for path in root.rglob("*") if path.suffix.lower() in {".ttf", ".otf"})
    return sorted(found, key=lambda path: (path.name, path))


def bitmap(font: ImageFont.FreeTypeFont, char: str) -> np.ndarray | None:
    """White ink on black, (32, 32) uint8, as high as the box like sklearn's digits; None if blank."""
    mask = font.getmask(char, mode="L")
    width, height = mask.size
    if min(width, height) < 2:
        return None
    ink = Image.fromarray(np.asarray(mask, dtype=np.uint8).reshape(height, width))
    scale = GLYPH / max(height, width / 2)  # a character wider than two heights (a dash) stays flat
    size = (max(2, min(GLYPH, round(width * scale))), max(2, round(height * scale)))
    box = Image.new("L", (GLYPH, GLYPH))
    box.paste(ink.resize(size, Image.Resampling.BOX), ((GLYPH - size[0]) // 2, (GLYPH - size[1]) // 2))
    return np.asarray(box)


def face(path: Path, chars: dict[str, int]) -> tuple[str, dict[str, np.ndarray]]:
    """The font family and what the file draws of `chars`, without what it draws like one of its digits."""
    try:
        font = ImageFont.truetype(str(path), 48, layout_engine=ImageFont.Layout.BASIC)
        # \uffff is no character: what a font draws for it, it draws for all that it lacks.
        refused = {bytes(font.getmask(char, mode="L")) for char in "\uffff0123456789"}
        drawn = {c: bitmap(font, c) for c in chars if bytes(font.getmask(c, mode="L")) not in refused}
    except OSError:
        return "", {}  # a file that Pillow cannot read
    return font.getname()[0] or path.stem, {char: image for char, image in drawn.items() if image is not None}


def skeleton(ink: Tensor) -> Tensor:
    """Soft morphological skeleton of images (n, 1, h, w) in 0..1: what a very thin pen would have drawn."""
    bones = torch.zeros_like(ink)
    for _ in range(7):
        thinner = -torch.maximum(F.max_pool2d(-ink, (1, 3), 1, (0, 1)), F.max_pool2d(-ink, (3, 1), 1, (1, 0)))
        lost = (ink - F.max_pool2d(thinner, 3, 1, 1)).clamp_min(0)  # what an opening takes away
        bones, ink = bones + lost * (1 - bones), thinner
    return bones


def collect(fonts: list[Path], *, seed: int) -> Glyphs:
    """Renders every font once; equal drawings of a class count once."""
    every = {char: index for index, word in enumerate(CLASSES) for char in word}
    chars = {char: index for char, index in every.items() if unicodedata.category(char)[0] != "N"}
    per_family: Counter[str] = Counter()
    found: dict[tuple[int, bytes], str] = {}  # (class, drawing) -> maker
    for path in fonts:
        family, drawn = face(path, chars)
        if drawn and per_family[family] < FACES:
            per_family[family] += 1
            for char, image in drawn.items():
                found.setdefault((chars[char], image.tobytes()), family.split()[0].lower())
    if len(set(found.values())) < 2:
        raise typer.BadParameter("need .ttf or .otf fonts of two families or more; see --fonts")
    # Fonts related by name ("Noto Sans", "Noto Serif") go to the same side.
    makers = np.random.default_rng(seed).permutation(sorted(set(found.values())))
    outside = set(makers[: max(1, round(HELD_OUT * len(makers)))])
    raw = bytearray(b"".join(drawing for _, drawing in found))
    ink = torch.frombuffer(raw, dtype=torch.uint8).view(-1, 1, GLYPH, GLYPH)
    bones = torch.cat([(skeleton(part / 255) * 255).round().byte() for part in ink.split(4096)])
    labels = torch.tensor([label for label, _ in found])
    held_out = torch.tensor([maker in outside for maker in found.values()])
    print(f"{len(found)} drawings, {len(labels.unique())} classes, {len(per_family)} font families")
    return Glyphs(torch.cat([ink, bones], 1), labels, held_out)


def warp(ink: Tensor) -> Tensor:
    """A random affine map and a smooth random wobble for every image."""

    def draw(low: float, high: float) -> Tensor:
        return torch.empty(len(ink)).uniform_(low, high)

    angle, shear, wide, high = draw(-0.25, 0.25), draw(-0.3, 0.3), 1 / draw(0.5, 1.0), 1 / draw(0.85, 1.1)
    cos, sin = angle.cos(), angle.sin()
    first = torch.stack([wide * cos, wide * (shear * cos - sin), draw(-0.15, 0.15)], 1)
    second = torch.stack([high * sin, high * (shear * sin + cos), draw(-0.1, 0.1)], 1)
    wobble = torch.randn(len(ink), 2, 5, 5) * draw(0, 0.12).view(-1, 1, 1, 1)
    wobble = F.interpolate(wobble, size=(GLYPH, GLYPH), mode="bicubic", align_corners=True)
    grid = F.affine_grid(torch.stack([first, second], 1), list(ink.shape), align_corners=False)
    return F.grid_sample(ink, grid + wobble.permute(0, 2, 3, 1), align_corners=False)


def augment(pair: Tensor) -> Tensor:
    """Pen strokes (n, 1, 8, 8), ink 0..1, from (n, 2, 32, 32) uint8 glyphs and their skeletons."""
    thin, binary, coarse = (torch.rand(len(pair), 1, 1, 1) < share for share in (0.5, 0.7, 0.8))
    ink = warp(torch.where(thin, pair[:, 1:], pair[:, :1]) / 255)
    ink = torch.where(thin, ink * 2, ink).clamp(max=1)  # one pixel wide, a skeleton fades in the warp
    wider = F.max_pool2d(ink, 3, 1, 1)
    # The pen's width: skeletons become strokes of 3 to 5 pixels, glyphs gain up to 2.
    amount = torch.rand(len(pair), 1, 1, 1)
    ink = torch.where(thin, wider.lerp(F.max_pool2d(wider, 3, 1, 1), amount), ink.lerp(wider, amount))
    # Most scanned digits were black or white before the averaging.
    ink = torch.where(binary, ((ink - 0.4) * 4 + 0.5).clamp(0, 1), ink)
    strength = torch.empty(len(pair), 1, 1, 1).uniform_(0.8, 1.2)
    small = (F.avg_pool2d(ink, GLYPH // SMALL) * strength).clamp(max=1)
    return torch.where(coarse, (small * 16).round() / 16, small)


def to_input(small: Tensor) -> Tensor:
    """Ink 0..1 at 8x8 -> what the model reads: bilinear to 16x16, then normalised."""
    return (F.interpolate(small, size=(INPUT, INPUT), mode="bilinear", align_corners=False) - MEAN) / STD


def backbone() -> ViTModel:
    """The untrained model: 17 tokens of width 96, one channel."""
    shape = {"image_size": INPUT, "patch_size": 4, "num_channels": 1, "qkv_bias": True}
    width = {"hidden_size": 96, "intermediate_size": 288, "num_hidden_layers": 4, "num_attention_heads": 4}
    return ViTModel(ViTConfig(**shape, **width), add_pooling_layer=False)


def train(model: ViTModel, glyphs: Glyphs, *, steps: int, batch: int, rate: float = 2e-3) -> Tensor:
    """Trains `model` in place on the fonts not held out; out comes the head, (classes, 96)."""
    # A cosine head: classes then gather around their means, which is what class means need later.
    head = nn.Parameter(torch.randn(len(CLASSES), model.config.hidden_size))
    weights = [*model.parameters(), head]
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.05)
    rows = torch.nonzero(~glyphs.held_out)[:, 0]
    chance = torch.bincount(glyphs.labels[rows]).rsqrt()[glyphs.labels[rows]]  # between even and as found
    model.train()
    for step in range(steps):
        picked = rows[torch.multinomial(chance, batch, replacement=True)]
        cls = model(pixel_values=to_input(augment(glyphs.images[picked]))).last_hidden_state[:, 0]
        loss = F.cross_entropy(16 * F.normalize(cls) @ F.normalize(head).T, glyphs.labels[picked])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 250 == 0:
            print(f"step {step + 1}/{steps}  loss {loss.item():.3f}", flush=True)
    return F.normalize(head.detach())


@torch.no_grad()
def features(model: ViTModel, small: Tensor) -> Tensor:
    """The CLS tokens, (n, 96), of 8x8 images."""
    model.eval()
    return torch.cat([model(pixel_values=to_input(x)).last_hidden_state[:, 0] for x in small.split(1024)])


def character_accuracy(model: ViTModel, head: Tensor, glyphs: Glyphs) -> float:
    """Share of the held-out fonts' characters, undistorted at 8x8, that the head names correctly."""
    small = F.avg_pool2d(glyphs.images[glyphs.held_out, :1] / 255, GLYPH // SMALL)
    named = (features(model, small) @ head.T).argmax(1)
    return (named == glyphs.labels[glyphs.held_out]).float().mean().item()


def digit_accuracy(x: np.ndarray, labels: np.ndarray) -> str:
    """Accuracy of two probes on a fifth of sklearn's digits, given their frozen features."""
    x, x_test, y, y_test = train_test_split(x, labels, test_size=0.2, stratify=labels, random_state=0)
    means = np.stack([x[y == digit].mean(0) for digit in range(10)])
    nearest = (np.linalg.norm(x_test[:, None] - means, axis=2).argmin(1) == y_test).mean()
    scale = StandardScaler().fit(x).transform
    linear = LogisticRegression(max_iter=5000).fit(scale(x), y).score(scale(x_test), y_test)
    return f"nearest class mean {nearest:.3f}, logistic regression {linear:.3f}"


def main(
    fonts: Annotated[Path | None, typer.Option(help="Folder of fonts; without it, the system's.")] = None,
    out: Annotated[Path, typer.Option(help="Where the model goes.")] = Path("src/fedbraid/models/tiny"),
    steps: int = 2000,
    batch: int = 256,
    seed: int = 0,
) -> None:
    """Render, train, save the backbone, print its figures."""
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    glyphs = collect(font_files(fonts), seed=seed)
    untrained, model = backbone(), backbone()
    head = train(model, glyphs, steps=steps, batch=batch)
    model.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)  # it is written for its owner only
    (out / "preprocessor_config.json").write_text(json.dumps(PROCESSOR, indent=2) + "\n")
    pixels, labels = load_digits(return_X_y=True)
    small = torch.from_numpy(pixels).float().view(-1, 1, SMALL, SMALL) / 16
    print(f"characters of held-out fonts: {character_accuracy(model, head, glyphs):.3f}")
    print("digits, this model:    ", digit_accuracy(features(model, small).numpy(), labels))
    print("digits, random weights:", digit_accuracy(features(untrained, small).numpy(), labels))
    print("digits, raw pixels:    ", digit_accuracy(pixels, labels))


if __name__ == "__main__":
    typer.run(main)
