"""Settings of a new run from its options, and checks of the run folder. Imports no torch."""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dsmap.common.output_files import identity
from dsmap.config import NOT_SHAPING, TrainConfig, override_key, read_yaml
from dsmap.errors import InputError

if TYPE_CHECKING:
    from dsmap.model.dsmap import DSMAP
    from dsmap.training.datasets import Domains

METHODS = ("dsmap", "munit")


def model_settings(method: str, names: tuple[str, str] | None) -> dict[str, object]:
    """The model settings that --method and the domain names give."""
    if method not in METHODS:
        raise InputError(f"no method named {method!r}", f"Known methods: {', '.join(METHODS)}.")
    settings: dict[str, object] = {"domains": list(names)} if names else {}
    return settings | ({"mapping": False} if method == "munit" else {})


def initialised_model_settings(
    generators: "DSMAP", names: tuple[str, str] | None, overrides: Iterable[str]
) -> dict[str, object]:
    """The model settings of the generators a run starts from, without overridden ones; `names` rename the domains."""
    theirs = generators.domains
    if names is not None and names == theirs[::-1]:
        raise InputError(
            f"the domains are given as {', '.join(names)}; those of --start-from are {', '.join(theirs)}",
            "Give them in this order.",
        )
    network = generators.config.model_dump(mode="json") | {"domains": list(names or theirs)}
    overridden = {override_key(override) for override in overrides}
    return {key: value for key, value in network.items() if f"model.{key}" not in overridden}


def check_keeps_architecture(start_from: str, method: str, overrides: Iterable[str]) -> None:
    """Raises InputError where an option would change the architecture of the generators of --start-from."""
    shaping = (o for o in overrides if o.startswith("model.") and override_key(o) not in NOT_SHAPING)
    given = next(shaping, None) or ("--method munit" if method == "munit" else None)
    if given:
        raise InputError(
            f"{given} cannot be combined with --start-from {start_from}",
            "Leave it out: the architecture is that of --start-from.",
        )


def check_features_used(features: str | None, config: TrainConfig) -> None:
    """Raises InputError for a feature network that no loss uses."""
    if features is not None and not config.uses_features:
        raise InputError(
            f"--features {features} is given, but loss.contextual is 0 and discriminator.features is false",
            "Leave it out, or --set loss.contextual=1.",
        )


class FeatureChoice(NamedTuple):
    """What `--features` came to."""

    name: str | None
    """For `TrainConfig.features`; None leaves it."""
    overrides: tuple[str, ...] = ()
    """Settings that switch off what would need a feature network."""
    note: str | None = None
    """For the user, where `auto` found none."""


def choose_features(
    features: str, settings: TrainConfig, *, run: Path, resumed: bool, chosen: Iterable[str] = ()
) -> FeatureChoice:
    """Resolve `--features`: a name, `none`, or `auto`, which is what the settings ask for where that is installed.

    Nothing is imported or downloaded. A resumed run goes on as it began. `chosen`: keys of settings that the user
    passed; what was asked for is never switched off. Raises InputError where that needs torchvision, which is missing.
    """
    if features == "none":
        return FeatureChoice(None, _WITHOUT_FEATURES)
    name = settings.features if features == "auto" else features
    if features == "auto" and resumed and _began_without_features(run):
        return FeatureChoice(None, _WITHOUT_FEATURES)
    missing = name == "vgg16" and settings.uses_features and find_spec("torchvision") is None
    if not missing:
        return FeatureChoice(None if features == "auto" else features)
    asked = {"loss.contextual", "loss.feature_matching", "discriminator.features", "features"} & set(chosen)
    if features != "auto" or asked or resumed:
        raise InputError(
            "the feature network vgg16 needs torchvision, which is not installed",
            "pip install 'dsmap[vgg]', pass --features SQUEEZENET.npz, or train without one: --features none",
        )
    parts = ["the contextual loss"] * bool(settings.loss.contextual)
    parts += ["what discriminators see through it"] * settings.discriminator.features
    note = f"feature network: none, as torchvision is not installed; the training goes without {' and '.join(parts)}"
    return FeatureChoice(None, _WITHOUT_FEATURES, f"{note} (pip install 'dsmap[vgg]', or --features FILE.npz)")


_WITHOUT_FEATURES = ("loss.contextual=0", "discriminator.features=false")


def _began_without_features(run: Path) -> bool:
    try:
        began = read_yaml(run / "config.yaml", "the settings in")
        return not began["loss"]["contextual"] and not began["discriminator"]["features"]
    except (InputError, OSError, KeyError, TypeError):
        return False


def check_run_is_separate(run: Path, domains: "Domains", config: Path | None, resumed: bool) -> None:
    """Raises InputError where files of the run would replace images or the settings file."""
    folders = {path.parent for domain in domains for path in (*domain.train, *domain.test)}
    if identity(run) in {identity(folder) for folder in folders}:
        raise InputError(f"-o {run} is a folder of the images", "Choose another folder for the run.")
    written = run / "config.yaml"
    if config is not None and not resumed and identity(config) == identity(written):  # resumed, it is the run's own
        raise InputError(
            f"--config {config} is where the run writes its own settings", "Choose another folder with -o."
        )
