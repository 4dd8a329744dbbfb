"""Model cards: a bundle's README.md, with the YAML head that the Hugging Face Hub reads.

    ---
    library_name: dsmap
    pipeline_tag: image-to-image
    license: cc-by-4.0
    datasets: [owner/name]
    ...
    ---
    # my-model ...

Training, export and the runtime write and read cards by this module alone. PyYAML is loaded when it is needed: the
extras `export` and `hub` bring it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dsmap.errors import DsmapError, InputError
from dsmap.runtime.bundle.manifest import Manifest

CARD = "README.md"
SAMPLES = "samples"
"""Folder of a bundle's sample images."""
NOT_STATED = "not stated"
LICENCE_LINE = "Licence of the weights: {}."
"""In the text of a card that dsmap has written."""
DATASET = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
# fmt: off
_LICENCES = frozenset({
    "afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "bsl-1.0", "cc",
    "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0",
    "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "creativeml-openrail-m", "gpl", "gpl-2.0", "gpl-3.0", "isc", "lgpl",
    "lgpl-2.1", "lgpl-3.0", "mit", "mpl-2.0", "odbl", "openrail", "openrail++", "pddl", "unlicense", "wtfpl", "zlib",
})
# fmt: on
"""Those that the Hub knows by name. Others are `other`, with a name of their own."""
_ALSO = {"cc0": "cc0-1.0", "apache2": "apache-2.0", "apache": "apache-2.0"}
_TAGS = ("dsmap", "onnx", "unpaired-image-translation", "video")


class CardSample(NamedTuple):
    """An image that a card shows beside its translation, by their paths in the bundle."""

    source: str
    target: str
    image: str
    translation: str


def write_card(manifest: Manifest, samples: Sequence[CardSample] = (), head: Mapping[str, Any] | None = None) -> str:
    """The README.md of a bundle: the head for machines, the card, and what every bundle can say of itself.

    `head`: keys that replace ours, as those of a card that its maker wrote.
    """
    parts = [manifest.card.strip(), _samples(samples), _use(manifest), _numbers(manifest)]
    body = "\n\n".join(part for part in parts if part)
    keys = card_head(manifest, samples) | dict(head or {})
    return f"---\n{_yaml().safe_dump(keys, sort_keys=False, allow_unicode=True)}---\n\n{body}\n"


def card_head(manifest: Manifest, samples: Sequence[CardSample] = ()) -> dict[str, Any]:
    """What the Hub reads of a bundle. A licence that is not stated, and data that are not named, are left out."""
    head: dict[str, Any] = {"library_name": "dsmap", "pipeline_tag": "image-to-image"}
    head |= licence_keys(manifest.licence)
    head["tags"] = [*_TAGS, *(_slug(domain) for domain in manifest.domains)]
    if manifest.datasets:
        head["datasets"] = list(manifest.datasets)
    head["metrics"] = ["psnr"]
    if samples:
        head["widget"] = [
            {"src": one.image, "prompt": f"{one.source} to {one.target}", "output": {"url": one.translation}}
            for one in samples
        ]
    return head


def licence_keys(licence: str) -> dict[str, str]:
    """The keys of the head that name a licence: one that the Hub knows, or `other` with a name."""
    name = re.sub(r"[\s_]+", "-", licence.strip().casefold())
    name = _ALSO.get(name, name)
    if name in ("", _slug(NOT_STATED), "unknown", "none"):
        return {}
    if name in _LICENCES:
        return {"license": name}
    return {"license": "other", "license_name": _slug(licence)[:80] or "own", "license_link": CARD}


def split_card(text: str) -> tuple[dict[str, Any], str]:
    """The head of a card and what follows. No head: an empty one. Raises InputError for a head that is not YAML."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    if not text.startswith("---\n"):
        return {}, text
    head, mark, body = text[4:].partition("\n---")
    if not mark:
        raise InputError("the card's head has no end", "Close the lines between --- and --- at its top.")
    yaml = _yaml()
    try:
        tree = yaml.safe_load(head)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"the card's head is not YAML: {reason}", "Correct the lines between --- and ---.") from error
    if not isinstance(tree, dict | None):
        raise InputError("the card's head has no keys", "Write lines such as `license: mit` between --- and ---.")
    return {str(key): value for key, value in (tree or {}).items()}, body.partition("\n")[2].lstrip("\n")


def check_card(text: str) -> None:
    """Raises InputError for a card that must not be published: without its licence, or the data it comes from."""
    head, body = split_card(text)
    licence, data = head.get("license"), head.get("datasets")
    if not isinstance(licence, str) or licence.casefold() in ("", "unknown", NOT_STATED):
        also = "" if data else ", and names no data"
        options = "--licence NAME" if data else "--licence NAME --dataset OWNER/NAME"
        raise InputError(f"{CARD} states no licence{also}", _add(options, "license: cc-by-4.0"))
    if licence == "other" and not head.get("license_name"):
        raise InputError(f"{CARD} says `license: other` without a license_name", "Add the name in its head.")
    names = [data] if isinstance(data, str) else data
    if not isinstance(names, list) or not [name for name in names if isinstance(name, str) and name.strip()]:
        raise InputError(f"{CARD} names no data", _add("--dataset OWNER/NAME", "datasets: [OWNER/NAME]"))
    if len(body.strip()) < 40:
        raise InputError(f"{CARD} says nothing of the model", "Write what it does, and what it does not do.")


def check_dataset(name: str) -> str:
    """`name`, if a card's head may name data so. Raises InputError."""
    if not DATASET.fullmatch(name):
        raise InputError(
            f"--dataset is {name[:200]!r}",
            "Pass the id of a data set on the Hub (OWNER/NAME), or a short name without spaces; the card can say more.",
        )
    return name


def _add(option: str, line: str) -> str:
    return f"Add it: dsmap export BUNDLE {option}, or the line `{line}` in the card's head."


def _samples(samples: Sequence[CardSample]) -> str:
    if not samples:
        return ""
    rows = [f"| ![{one.source}]({one.image}) | ![to {one.target}]({one.translation}) |" for one in samples]
    return "\n".join(["## Samples", "", "| image | translation |", "|---|---|", *rows])


def _use(manifest: Manifest) -> str:
    b, *a = manifest.targets[::-1]
    other = f"      # or {_quoted(a[0])}" if a else ""
    return (
        "## Use\n\nA model of [dsmap](https://github.com/dsmap/dsmap): unpaired translation of images and video.\n\n"
        f"```sh\npip install 'dsmap[cpu,hub]'\ndsmap video INPUT --model hf:OWNER/NAME --domain {_quoted(b)}"
        f"{other}\n```\n\n```python\nfrom dsmap.runtime import Translator\n\n"
        f'with Translator.load("hf:OWNER/NAME", domain={json.dumps(b, ensure_ascii=False)}) as translator:\n'
        "    translated_rgb = translator(image_rgb)  # uint8 (height, width, 3)\n```"
    )


def _numbers(manifest: Manifest) -> str:
    """How near the graphs are to the network, per precision: what bundle.json has measured."""
    rows = []
    for precision, check in _mapping(manifest.verification.get("variants")).items():
        chains = {k: v for k, v in _mapping(_mapping(check).get("checks")).items() if k.startswith("chain ")}
        told = [f"{_mapping(v).get('psnr_db')} dB {k.removeprefix('chain ')}" for k, v in chains.items()]
        if told:
            rows.append(f"| {precision} | {', '.join(told)} |")
    table = ["| precision | PSNR to float32 |", "|---|---|", *rows, ""] if rows else []
    trained = f"Trained at a shorter side of {manifest.sizes.trained_at} pixels."
    data = f" Data: {', '.join(manifest.datasets)}." if manifest.datasets else ""
    licence = LICENCE_LINE.format(manifest.licence)
    more = "" if licence in manifest.card else f" {licence}"
    return "\n".join(["## Facts", "", *table, f"{trained}{data}{more}"])


def _mapping(tree: object) -> Mapping[str, Any]:
    return tree if isinstance(tree, dict) else {}


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.casefold()).strip("-.")


def _quoted(text: str) -> str:
    return text if re.fullmatch(r"[\w.-]+", text, re.ASCII) else "'" + text.replace("'", "'\\''") + "'"


def _yaml() -> Any:
    try:
        import yaml
    except ImportError as error:
        raise DsmapError("PyYAML is not installed", "pip install 'dsmap[hub]'") from error
    return yaml
