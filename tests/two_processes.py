"""Started by torchrun in test_distributed.py: gradients and losses of one batch, shared out over the processes.

two_processes.py FILE.pt GAN_TYPE ...
"""

import sys

import torch
from tiny import images, make_discriminators, make_model, styles

from dsmap.common.distributed import (
    average_gradients,
    destroy_process_group,
    init_process_group,
    mean_over_processes,
    processes_from_torchrun,
)
from dsmap.config import LossWeights
from dsmap.training.appearance import APPEARANCE_DIM, Appearance
from dsmap.training.objective import discriminator_terms, generator_terms, translate_both, weighted_sum

N = 4
WEIGHTS = LossWeights(kl=0.1, mode_seeking=0.5, appearance=2)


def gradients_of(gan_type, mine):
    """Losses and gradients of this process's rows, averaged over the processes; `mine` picks the rows."""
    model, discriminators = make_model(style_kl=True).double(), make_discriminators(gan_type=gan_type).double()
    features = torch.nn.Conv2d(3, 6, 5, stride=8).requires_grad_(False)
    with torch.no_grad():
        features.weight.copy_(torch.linspace(-1, 1, features.weight.numel()).view_as(features.weight).sin())
        features.bias.zero_()
    features.double()
    x, random, noise, other = (
        {slot: mine(value) for slot, value in made.items()}
        for made in (
            images(N, dtype=torch.float64),
            styles(N, dtype=torch.float64),
            styles(N, seed=5, dtype=torch.float64),
            styles(N, seed=6, dtype=torch.float64),
        )
    )
    found = {}
    first = translate_both(model, x, random, noise)
    second = {slot: model.decode(first.mapped_across[slot], other[slot], slot).detach() for slot in x}
    d_terms = discriminator_terms(discriminators, gan_type, x, first.exemplar, second)
    torch.stack(list(d_terms.values())).sum().backward(inputs=list(discriminators.parameters()))
    discriminators.requires_grad_(False)
    looks = {"a": Appearance(torch.zeros(APPEARANCE_DIM), torch.ones(APPEARANCE_DIM))}
    looks["b"] = Appearance(torch.linspace(-1, 1, APPEARANCE_DIM), torch.linspace(1, 2, APPEARANCE_DIM))
    terms = generator_terms(model, discriminators, gan_type, x, first, features, mode_seeking=True, appearances=looks)
    weighted_sum(terms, WEIGHTS).backward()
    for name, module in (("d", discriminators), ("g", model)):
        average_gradients(module.parameters())
        found |= {f"{name}/{key}": p.grad for key, p in module.named_parameters() if p.grad is not None}
    losses = {name: mean_over_processes(term.detach()) for name, term in {**d_terms, **terms}.items()}
    return found, losses


def main():
    processes = processes_from_torchrun()
    init_process_group(processes, torch.device("cpu"))
    found = {gan_type: gradients_of(gan_type, processes.shard) for gan_type in sys.argv[2:]}
    if processes.rank == 0:
        torch.save(found, sys.argv[1])
    destroy_process_group()


if __name__ == "__main__":
    main()
