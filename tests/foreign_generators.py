"""Checkpoints in the layouts of pytorch-CycleGAN-and-pix2pix's ResNet generator and of MUNIT, and what they compute,
written apart from the project's networks: plain calls of torch's functions, after the layouts and the papers."""

import torch
import torch.nn.functional as F


def cyclegan_state(width=8, blocks=2, *, seed=0, dropout=False, biases=True):
    """A state dict with random weights of a usual size."""
    generator = torch.Generator().manual_seed(seed)
    state = {}

    def put(key, *shape):
        state[f"{key}.weight"] = torch.randn(*shape, generator=generator) * (2 / (shape[1] * shape[2] ** 2)) ** 0.5
        if biases:
            out = shape[1] if key in transposed else shape[0]
            state[f"{key}.bias"] = torch.randn(out, generator=generator) * 0.2

    end = 10 + blocks
    transposed = (f"model.{end}", f"model.{end + 3}")
    put("model.1", width, 3, 7, 7)
    put("model.4", 2 * width, width, 3, 3)
    put("model.7", 4 * width, 2 * width, 3, 3)
    for block in range(10, end):
        for place in (1, 6 if dropout else 5):
            put(f"model.{block}.conv_block.{place}", 4 * width, 4 * width, 3, 3)
    put(transposed[0], 4 * width, 2 * width, 3, 3)
    put(transposed[1], 2 * width, width, 3, 3)
    put(f"model.{end + 7}", 3, width, 7, 7)
    return state


def cyclegan_forward(state, image_rgb):
    """The translation of a uint8 frame (H, W, 3) with sides that are multiples of 4: uint8 as well."""
    last = max(int(key.split(".")[1]) for key in state)
    blocks = last - 7 - 10

    def of(key):
        return state[f"{key}.weight"], state.get(f"{key}.bias")

    def norm(y):
        mean = y.mean((2, 3), keepdim=True)
        return (y - mean) / (((y - mean) ** 2).mean((2, 3), keepdim=True) + 1e-5).sqrt()

    x = torch.from_numpy(image_rgb.copy()).permute(2, 0, 1)[None].float() / 255 * 2 - 1
    y = F.conv2d(F.pad(x, (3, 3, 3, 3), mode="reflect"), *of("model.1"))
    y = torch.relu(norm(y))
    for place in (4, 7):
        y = torch.relu(norm(F.conv2d(y, *of(f"model.{place}"), stride=2, padding=1)))
    for place in range(10, 10 + blocks):
        second = 6 if f"model.{place}.conv_block.6.weight" in state else 5
        z = F.conv2d(F.pad(y, (1, 1, 1, 1), mode="reflect"), *of(f"model.{place}.conv_block.1"))
        z = F.conv2d(
            F.pad(torch.relu(norm(z)), (1, 1, 1, 1), mode="reflect"), *of(f"model.{place}.conv_block.{second}")
        )
        y = y + norm(z)
    for place in (10 + blocks, 13 + blocks):
        y = F.conv_transpose2d(y, *of(f"model.{place}"), stride=2, padding=1, output_padding=1)
        y = torch.relu(norm(y))
    z = torch.tanh(F.conv2d(F.pad(y, (3, 3, 3, 3), mode="reflect"), *of(f"model.{last}")))
    return ((z[0].permute(1, 2, 0) + 1) / 2 * 255).round().to(torch.uint8).numpy()


def munit_state(width=8, blocks=2, *, downs=2, style=8, mlp=16, seed=0):
    """One generator of a MUNIT with random weights: {'a': munit_state(), 'b': munit_state(seed=1)} is a checkpoint."""
    generator = torch.Generator().manual_seed(seed)
    state = {}

    def put(key, *shape):
        fan_in = torch.tensor(shape[1:]).prod()
        state[f"{key}.weight"] = torch.randn(*shape, generator=generator) * (2 / fan_in) ** 0.5
        state[f"{key}.bias"] = torch.randn(shape[0], generator=generator) * 0.2

    content = width * 2**downs
    put("enc_style.model.0.conv", width, 3, 7, 7)
    before = width
    for i in range(1, 5):
        after = width * min(2**i, 4)
        put(f"enc_style.model.{i}.conv", after, before, 4, 4)
        before = after
    put("enc_style.model.6", style, before, 1, 1)
    put("enc_content.model.0.conv", width, 3, 7, 7)
    for i in range(downs):
        put(f"enc_content.model.{i + 1}.conv", width * 2 ** (i + 1), width * 2**i, 4, 4)
    for block in range(blocks):
        for j in (0, 1):
            put(f"enc_content.model.{downs + 1}.model.{block}.model.{j}.conv", content, content, 3, 3)
            put(f"dec.model.0.model.{block}.model.{j}.conv", content, content, 3, 3)
            for what in ("mean", "var"):  # which AdaIN keeps, and never reads
                state[f"dec.model.0.model.{block}.model.{j}.norm.running_{what}"] = torch.full((content,), 7.0)
    for i in range(downs):
        wide, narrow = content // 2**i, content // 2 ** (i + 1)
        put(f"dec.model.{2 * i + 2}.conv", narrow, wide, 5, 5)
        state[f"dec.model.{2 * i + 2}.norm.gamma"] = torch.rand(narrow, generator=generator) + 0.5
        state[f"dec.model.{2 * i + 2}.norm.beta"] = torch.randn(narrow, generator=generator) * 0.2
    put(f"dec.model.{2 * downs + 1}.conv", 3, width, 7, 7)
    put("mlp.model.0.fc", mlp, style)
    put("mlp.model.1.fc", mlp, mlp)
    put("mlp.model.2.fc", blocks * 4 * content, mlp)
    return state


def munit_style(state, image_rgb):
    """The style code of a uint8 image (H, W, 3): (S,)."""
    y = _image(image_rgb)
    for i in range(5):
        y = torch.relu(_reflected(y, state, f"enc_style.model.{i}.conv", 3 if i == 0 else 1, 1 if i == 0 else 2))
    y = y.mean((2, 3))
    return (y @ state["enc_style.model.6.weight"][:, :, 0, 0].T + state["enc_style.model.6.bias"])[0].numpy()


def munit_forward(of_source, of_target, image_rgb, style_s):
    """The translation of a uint8 frame (H, W, 3), in a style code of the target's: uint8 as well."""
    y, downs = _image(image_rgb), 0
    y = torch.relu(_normed(_reflected(y, of_source, "enc_content.model.0.conv", 3, 1)))
    while f"enc_content.model.{downs + 1}.conv.weight" in of_source:
        downs += 1
        y = torch.relu(_normed(_reflected(y, of_source, f"enc_content.model.{downs}.conv", 1, 2)))
    block = 0
    while f"enc_content.model.{downs + 1}.model.{block}.model.0.conv.weight" in of_source:
        place = f"enc_content.model.{downs + 1}.model.{block}.model"
        z = torch.relu(_normed(_reflected(y, of_source, f"{place}.0.conv", 1, 1)))
        y = y + _normed(_reflected(z, of_source, f"{place}.1.conv", 1, 1))
        block += 1
    p = torch.from_numpy(style_s)
    for i in range(3):
        p = of_target[f"mlp.model.{i}.fc.weight"] @ p + of_target[f"mlp.model.{i}.fc.bias"]
        p = torch.relu(p) if i < 2 else p
    channels, norms = y.shape[1], iter(p.split(y.shape[1]))

    def styled(z):
        shift, scale = next(norms).view(1, channels, 1, 1), next(norms).view(1, channels, 1, 1)
        return _normed(z) * scale + shift

    for i in range(block):
        z = torch.relu(styled(_reflected(y, of_target, f"dec.model.0.model.{i}.model.0.conv", 1, 1)))
        y = y + styled(_reflected(z, of_target, f"dec.model.0.model.{i}.model.1.conv", 1, 1))
    for i in range(downs):
        y = y.repeat_interleave(2, 2).repeat_interleave(2, 3)
        y = _normed(_reflected(y, of_target, f"dec.model.{2 * i + 2}.conv", 2, 1), over=(1, 2, 3))
        gamma, beta = (of_target[f"dec.model.{2 * i + 2}.norm.{name}"] for name in ("gamma", "beta"))
        y = torch.relu(y * gamma.view(1, -1, 1, 1) + beta.view(1, -1, 1, 1))
    z = torch.tanh(_reflected(y, of_target, f"dec.model.{2 * downs + 1}.conv", 3, 1))
    return ((z[0].permute(1, 2, 0) + 1) / 2 * 255).round().to(torch.uint8).numpy()


def _image(image_rgb):
    return torch.from_numpy(image_rgb.copy()).permute(2, 0, 1)[None].float() / 255 * 2 - 1


def _reflected(y, state, key, padding, stride):
    padded = F.pad(y, (padding,) * 4, mode="reflect")
    return F.conv2d(padded, state[f"{key}.weight"], state[f"{key}.bias"], stride=stride)


def _normed(y, over=(2, 3)):
    mean = y.mean(over, keepdim=True)
    return (y - mean) / (((y - mean) ** 2).mean(over, keepdim=True) + 1e-5).sqrt()
