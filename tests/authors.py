"""Files in the authors' formats, made from our own networks: checkpoints, their YAML and folders of golden numbers.

The names are written out here once more, from the description of the format, to check those in
`dsmap.model.authors_checkpoint`.
"""

import json

import numpy as np
import torch
import yaml
from tiny import gradients, images, slow_discriminator_term, slow_generator_terms, styles

from dsmap.training.losses import contextual_loss

WEIGHTS = {
    "gan_w": 1, "recon_x_w": 10, "recon_s_w": 10, "recon_c_w": 2, "recon_d_w": 2, "recon_kl_w": 0,
    "recon_x_cyc_w": 5, "vgg_w": 0,
}  # fmt: skip


def official_yaml(model):
    config = model.config
    return {
        "max_iter": 200000,
        "lr": 0.0001,
        **WEIGHTS,
        "gen": {
            "dim": config.dim,
            "mlp_dim": config.mlp_dim,
            "style_dim": config.style_dim,
            "activ": "relu",
            "n_downsample": 2,
            "mid_downsample": 1,
            "n_res": config.n_res,
            "pad_type": config.pad_type,
            "status_d": config.mapping,
            "kl_mode": False,
        },
        "dis": {
            "dim": 4,
            "norm": "none",
            "activ": "lrelu",
            "n_layer": 4,
            "gan_type": "lsgan",
            "num_scales": 3,
            "pad_type": "reflect",
        },
        "input_dim_a": 3,
        "input_dim_b": 3,
        "data_root": "../train_datasets/cat2dog",
    }


def generator_modules(model, slot):
    """(authors' name, our module) for one of their two generators, in which the content encoder is repeated."""
    other = {"a": "b", "b": "a"}[slot]
    n_res = range(model.config.n_res)
    style, mlp, decoder = model.style_encoders[slot], model.style_mlps[slot], model.decoders[slot]
    names = [(f"enc_style.model.{i}.conv", layer) for i, layer in enumerate([style.stem, *style.downs])]
    names += [("enc_style.model.6", style.head)]
    for each in ("a", "b"):
        content = model.content_encoders[each]
        names += [
            (f"enc_content.prelayer_{each}.0.conv", content.stem),
            (f"enc_content.prelayer_{each}.2.conv", content.downs[0]),
            (f"enc_content.prelayer_{each}.3.conv", content.downs[1]),
            (f"enc_content.model_{each}.0.conv", content.mid),
        ]
        for i in n_res:
            names += [(f"enc_content.model_{each}.1.model.{i}.model.0.conv", content.blocks[i].conv1)]
            names += [(f"enc_content.model_{each}.1.model.{i}.model.1.conv", content.blocks[i].conv2)]
    names += [("enc_content.share_layer.0.model.0.conv", model.shared_encoder.block.conv1)]
    names += [("enc_content.share_layer.0.model.1.conv", model.shared_encoder.block.conv2)]
    if model.config.mapping:
        mapping = model.mappings[other]  # crossed: generator a keeps the mapping TO b
        names += [("domain_mapping.layer1.0.conv", mapping.up), ("domain_mapping.layer1.0.norm", mapping.up_norm)]
        names += [("domain_mapping.layer2.0.conv", mapping.down), ("domain_mapping.layer2.0.norm", mapping.down_norm)]
    for i in n_res:
        names += [(f"dec.model.0.model.{i}.model.0.conv", decoder.blocks[i].conv1)]
        names += [(f"dec.model.0.model.{i}.model.1.conv", decoder.blocks[i].conv2)]
    for i, up in zip((2, 4, 6), decoder.ups, strict=True):
        names += [(f"dec.model.{i}.conv", up.conv), (f"dec.model.{i}.norm", up.norm)]
    names += [("dec.model.7.conv", decoder.tail)]
    names += [(f"mlp.model.{i}.fc", layer) for i, layer in enumerate(mlp.layers)]
    return names


def discriminator_modules(discriminator):
    names = []
    for i, scale in enumerate(discriminator.scales):
        names += [(f"cnns.{i}.{j}.conv", layer) for j, layer in enumerate(scale.layers)]
        names += [(f"cnns.{i}.4", scale.head)]
    return names


def parameters_of(modules):
    """{authors' name: our parameter}"""
    return {f"{name}.{leaf}": getattr(module, leaf) for name, module in modules for leaf in ("weight", "bias")}


def official_generators(model):
    states = {}
    for slot in ("a", "b"):
        state = {}
        for name, value in parameters_of(generator_modules(model, slot)).items():
            is_norm = ".norm." in name
            state[name] = value.detach().clone().view(-1, 1, 1) if is_norm else value.detach().clone()
        for i in range(model.config.n_res):
            for j in (0, 1):
                for leaf in ("running_mean", "running_var"):  # their AdaIN keeps these and never reads them
                    state[f"dec.model.0.model.{i}.model.{j}.norm.{leaf}"] = torch.rand(model.config.content_dim)
        states[slot] = state
    return states


def official_discriminators(discriminators):
    return {
        slot: {name: value.detach().clone() for name, value in parameters_of(discriminator_modules(d)).items()}
        for slot, d in discriminators.items()
    }


def write_checkpoint(folder, model):
    """(gen_*.pt, config.yaml) in `folder`."""
    folder.mkdir(exist_ok=True)
    path, config = folder / "gen_00000007.pt", folder / "config.yaml"
    torch.save(official_generators(model), path)
    config.write_text(yaml.safe_dump(official_yaml(model)))
    return path, config


def write_golden(folder, model, discriminators):
    """A folder of golden numbers; those of losses and gradients are computed slowly."""
    write_checkpoint(folder, model)
    torch.save(official_discriminators(discriminators), folder / "dis_00000007.pt")
    x = images()
    random = {step: styles(size=model.config.style_dim, seed=seed) for step, seed in (("dis", 11), ("gen", 12))}
    terms, outputs = slow_generator_terms(model, discriminators, x, random["gen"])
    losses, gradient_norms = slow_losses(terms, model)

    with torch.no_grad():
        fakes = slow_generator_terms(model, discriminators, x, random["dis"])[1]
    dis = {
        slot: slow_discriminator_term(
            discriminators[slot],
            x[slot],
            outputs[f"{other}_to_{slot}_exemplar"].detach(),
            fakes[f"{other}_to_{slot}_random"],
        )
        for slot, other in (("a", "b"), ("b", "a"))
    }
    total = dis["a"] + dis["b"]
    gradients(total, discriminators)
    dis_norms = {
        f"dis_{slot}.{name}": value.grad.norm().item()
        for slot, d in discriminators.items()
        for name, value in parameters_of(discriminator_modules(d)).items()
    }
    cx = {name: torch.randn(2, 6, 5, 5, generator=torch.Generator().manual_seed(i)) for i, name in enumerate("xy")}
    losses |= {f"dis_{slot}": value.item() for slot, value in dis.items()} | {
        "dis_total": total.item(),
        "contextual": contextual_loss(cx["x"], cx["y"], 0.5).item(),
        "contextual_h0.1": contextual_loss(cx["x"], cx["y"], 0.1).item(),
    }

    arrays = {f"x_{slot}": x[slot] for slot in x} | {f"cx_{name}": value for name, value in cx.items()}
    arrays |= {f"{step}_style_{slot}": s[:, :, None, None] for step, both in random.items() for slot, s in both.items()}
    arrays |= {k: v[:, :, None, None] if k.startswith("style_") else v for k, v in outputs.items()}
    for slot, discriminator in discriminators.items():
        arrays |= {f"dis_{slot}_scale{i}": logits for i, logits in enumerate(discriminator(x[slot]))}
    np.savez(folder / "tensors.npz", **{name: value.detach().numpy() for name, value in arrays.items()})
    scalars = {"losses": losses, "gen_grad_norms": gradient_norms, "dis_grad_norms": dis_norms}
    (folder / "scalars.json").write_text(json.dumps(scalars, indent=1))
    return folder


def slow_losses(terms, model):
    """The generators' losses under the authors' names, and the norm of each parameter's gradient."""
    weights = {
        "image": 10,
        "domain_content": 2,
        "shared_content": 2,
        "shared_content_random": 2,
        "style_random": 10,
        "cycle": 5,
        "adversarial": 1,
        "adversarial_random": 1,
    }
    names = {
        "exemplar": {
            "image": "recon_x",
            "domain_content": "recon_d",
            "shared_content": "recon_c",
            "cycle": "cycrecon_x",
            "adversarial": "adv",
        },
        "random": {"style_random": "recon_s", "shared_content_random": "recon_c", "adversarial_random": "adv"},
    }
    losses, total = {}, 0
    for half, ours in names.items():
        of_half = 0
        for name, theirs in ours.items():
            for slot in ("a", "b"):
                value = terms.get(f"{name}/{slot}", torch.zeros(()))
                losses[f"{half}.{theirs}_{slot}"] = value.item()
                of_half = of_half + weights[name] * value
        losses[f"{half}.total"] = of_half.item()
        total = total + of_half
    losses["gen_total"] = total.item()
    gradients(total, model)
    norms = {
        f"gen_{slot}.{name}": value.grad.norm().item()
        for slot in ("a", "b")
        for name, value in parameters_of(generator_modules(model, slot)).items()
    }
    return losses, norms
