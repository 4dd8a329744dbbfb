"""What models of two named domains have in common: the slots under which they keep the networks of each."""

from torch import nn

from dsmap.errors import InputError

SLOTS = ("a", "b")


class TwoDomainModel(nn.Module):
    """Networks of two domains, each under its slot, a or b: names of weights do not depend on names of domains."""

    def __init__(self, domains: tuple[str, str]) -> None:
        super().__init__()
        self.domains = domains
        """The two domain names, in the order A, B."""

    def slot(self, domain: str) -> str:
        """The slot of `domain`: "a" or "b". Raises InputError for an unknown one."""
        if domain not in self.domains:
            raise InputError(f"no domain named {domain!r}", f"This model knows {' and '.join(self.domains)}.")
        return SLOTS[self.domains.index(domain)]
