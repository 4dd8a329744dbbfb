"""The translators of a served bundle, one for each pair of domains."""

import os

from dsmap.errors import InputError
from dsmap.runtime.backends.base import BackendSettings
from dsmap.runtime.backends.concurrency import MAX_CONCURRENT
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.styles.strength import StrengthTranslator
from dsmap.runtime.system.cpu import allowed_cores
from dsmap.runtime.translator import Translator
from dsmap.runtime.triton.settings import ServingSettings


class Directions:
    """Both directions of a bundle, loaded, and reconstructions once somebody wants them."""

    def __init__(self, settings: ServingSettings) -> None:
        """Raises InputError and DsmapError as `Translator`."""
        self.bundle = Bundle.read(settings.bundle)  # all of it: a server should not find damage later
        self._settings = settings
        self._translators: dict[tuple[str, str], Translator] = {}
        self._mixing: dict[tuple[str, str], StrengthTranslator] = {}
        for target in self.bundle.manifest.targets:
            self.find("", target)

    def find(self, source: str, target: str) -> Translator:
        """The translator between two domains as clients write them; an empty source is the domain that `target` isn't.

        Raises InputError for a domain that the model does not have.
        """
        target = self._target(target)
        pair = self._domain(source, "source") if source else self.bundle.source_of(target), target
        if pair not in self._translators:
            self._translators[pair] = self._load(*pair)
        return self._translators[pair]

    def at_strength(self, translator: Translator, strength: float) -> StrengthTranslator:
        """What mixes frames of `translator` with their reconstruction; of two at a time only the later is valid."""
        pair = translator.source, translator.target
        if pair not in self._mixing:
            self._mixing[pair] = StrengthTranslator(translator, 0.5)
        self._mixing[pair].strength = strength
        return self._mixing[pair]

    def describe(self) -> str:
        """The backend, in one line."""
        first = next(iter(self._translators.values()))
        return f"{first.backend_name}, {first.backend_description} ({first.backend_reason})"

    def close(self) -> None:
        """Frees what the backend holds."""
        for pair, translator in self._translators.items():
            self._mixing.get(pair, translator).close()

    def _load(self, source: str, target: str) -> Translator:
        settings = BackendSettings(
            precision=self._settings.precision,
            frames_at_once=self._settings.max_batch,
            at_once_on_host=min(allowed_cores() or os.cpu_count() or 1, MAX_CONCURRENT),
            trust_engines=self._settings.trust_engines,
            source=source,
        )
        return Translator(self.bundle, target, self._settings.backend, None, settings)

    def _target(self, text: str) -> str:
        target, manifest = self._domain(text, "domain"), self.bundle.manifest
        if target not in manifest.targets:
            fact = f"the model {manifest.name} does not translate to {target}"
            raise InputError(fact, f"Send {' or '.join(manifest.targets)}.")
        return target

    def _domain(self, text: str, what: str) -> str:
        manifest = self.bundle.manifest
        same = [name for name in manifest.domains if name.casefold() == text.casefold()]
        if text in manifest.domains:
            return text
        if len(same) == 1:
            return same[0]
        raise InputError(
            f"the model {manifest.name} has no {what} {text[:100]!r}",
            f"Send {' or '.join(manifest.targets if what == 'domain' else manifest.domains)}.",
        )
