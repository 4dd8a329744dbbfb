"""Planning jobs for inputs: videos, images, folders of either, image sequences, streams.

The kind of a file is decided by its content (see `dsmap.common.images.kinds`). An animated image is a video job.
"""

import contextlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from dsmap.common.atomic import sync_folder
from dsmap.common.images import IMAGE_SUFFIXES, VIDEO_SUFFIXES, kind_of, left_out_line, list_folder, list_images
from dsmap.common.output_files import Identity, check_folder_writable, identity, is_inside
from dsmap.errors import InputError
from dsmap.runtime.jobs.output_paths import check_kept_apart, default_output, image_suffix, result_names
from dsmap.runtime.jobs.resume import is_finished, is_unfinished, parts_folder, tidy_up
from dsmap.runtime.jobs.single_frame import means_one_frame
from dsmap.runtime.jobs.stored import StorePath, is_stored, list_stored, stored_exists
from dsmap.runtime.video.addresses import check_address, check_not_almost_address, is_address, name_of, shown
from dsmap.runtime.video.pipes import INPUT_NAME, is_piped_in, is_piped_out
from dsmap.runtime.video.sequence_reader import is_sequence, sequence_images
from dsmap.runtime.video.sequence_writer import is_image_of, written_images
from dsmap.runtime.video.sequence_writer import is_sequence as is_written_sequence

_MOVING_SUFFIXES = {"GIF": ".gif", "WebP": ".webp", "PNG": ".png", "AVIF": ".webp"}
"""What the translation of an animated image becomes, by its format, where nothing else was asked for."""

Kind = Literal["video", "image", "frame", "folder"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One input and its output."""

    kind: Kind
    """video: also an image sequence or a stream; frame: one of a video; folder: its images."""
    source: str | Path
    """A text for an address, a sequence's pattern or standard input."""
    output: Path
    own_folder: bool = False
    """Whether the folder of the output is created when it is missing."""

    @property
    def shown(self) -> str:
        """The source as it may be shown: an address without its secrets."""
        if is_piped_in(self.source):
            return INPUT_NAME
        return shown(self.source) if isinstance(self.source, str) and is_address(self.source) else str(self.source)

    @property
    def is_stored(self) -> bool:
        """Whether the input or the output is in an object store."""
        return is_stored(self.output) or (isinstance(self.source, str) and is_stored(self.source))

    @property
    def source_path(self) -> Path:
        """The source as a path, for reports: one that nothing opens where it is an address."""
        if isinstance(self.source, Path):
            return self.source
        return StorePath(self.source) if is_stored(self.source) else Path(self.source)

    @property
    def is_piped(self) -> bool:
        """Whether standard input is read or standard output written."""
        return is_piped_in(self.source) or is_piped_out(self.output)

    @property
    def name(self) -> str:
        """A short name, for a progress bar."""
        return Path(self.source).name if isinstance(self.source, Path) else str(self.output.stem)

    def inputs(self) -> list[Path]:
        """The files that are read, as far as they are files."""
        if not isinstance(self.source, Path):
            return [] if is_address(self.source) or is_piped_in(self.source) else sequence_images(self.source)
        return [self.source, *(list_images(self.source) if self.kind == "folder" else [])]

    def results(self) -> list[Path]:
        """The files that will be written, and the folder if they have one of their own; of a sequence the pattern."""
        if self.kind != "folder":
            return [self.output]
        assert isinstance(self.source, Path)
        return [self.output, *(self.output / name for name in result_names(list_images(self.source)).values())]

    def replaced(self) -> list[Path]:
        """Existing files that the results replace although they have other names."""
        return written_images(self.output) if is_written_sequence(self.output) else []

    def own_folders(self) -> list[Path]:
        """Folders for the job alone: the parts of videos."""
        if is_stored(self.output) or is_piped_out(self.output):
            return []
        return [parts_folder(self.output)] if self.kind == "video" and not is_written_sequence(self.output) else []

    def writes(self, path: Path) -> bool:
        """Whether `path` is, or may become, one of the results."""
        if is_written_sequence(self.output) and is_image_of(self.output, path):
            return True
        return identity(path) in {identity(result) for result in self.results()}


def plan_jobs(
    sources: Sequence[str],
    output: Path | None,
    domain: str,
    *,
    suffix: str = ".mp4",
    animations_stay: bool = True,
    outputs: Mapping[int, Path] | None = None,
) -> list[Job]:
    """The jobs for `sources`. Without `output` each result goes beside its input, as NAME-DOMAIN.

    With several inputs, or videos in a folder, `output` is a folder. `suffix`: of videos without a name of their own.
    `animations_stay`: animated images become animated images; else videos with that suffix.
    `outputs`: results that have names of their own, by the places of their inputs; relative ones lie in `output`.
    Raises InputError for what does not exist, and for two results of one name.
    """
    outputs = outputs or {}
    if len(sources) > 1 and output is not None and not output.is_dir() and _names_a_file(output):
        raise InputError(f"-o {output} names a file, and there are {len(sources)} inputs", "name a folder with -o")
    moving = _MOVING_SUFFIXES if animations_stay else {}
    suffixes = _Suffixes(suffix, moving)
    jobs: list[Job] = []
    for place, source in enumerate(sources):
        if place in outputs:
            own = (output or Path()) / outputs[place]
            jobs += [replace(job, own_folder=True) for job in _jobs(source, own, domain, suffixes, alone=True)]
        else:
            jobs += _jobs(source, output, domain, suffixes, alone=len(sources) == 1)
    named: dict[Identity, Job] = {}
    for job in jobs:
        other = named.setdefault(identity(job.output), job)
        if other is not job:
            raise InputError(
                f"{other.shown} and {job.shown} would both become {job.output}",
                "translate them in separate runs, with another -o",
            )
    _check_sequences_apart(jobs)
    return jobs


def check_jobs_apart(
    jobs: Iterable[Job], others: Iterable[tuple[Path, str]], closed: Sequence[tuple[Path, str]]
) -> list[tuple[Path, str]]:
    """No result may be an input of any job, or lie in a folder of `closed`. `others`: more inputs.

    Folders and inputs have what to call them.

    Gives all inputs, with what to call them. Raises InputError: --overwrite is for earlier results.
    """
    jobs = list(jobs)
    inputs = [*others]
    inputs += [(path, _called(job, path, alone=len(jobs) == 1)) for job in jobs for path in job.inputs()]
    known = {identity(path): name for path, name in inputs}
    for job in jobs:
        for result in (*job.results(), *job.replaced()):
            check_kept_apart(result, known, closed, option="-o")
        for folder in job.own_folders():
            if inside := next((path for path, _ in inputs if is_inside(path, folder)), None):
                raise InputError(f"{inside} lies in {folder}, the folder for unfinished parts", "move it out of there")
    return inputs


def is_done(job: Job) -> bool:
    """Whether the job's result exists and is complete: no interrupted job left parts of it."""
    if is_stored(job.output):  # what is there beside finished parts may be what they were to replace
        return stored_exists(job.output) and not (job.kind == "video" and is_unfinished(job.output))
    if job.kind == "video" and is_stored(str(job.source)):
        return job.output.exists() and not is_unfinished(job.output)
    if job.kind == "video":  # nothing says whether a stream or a sequence is complete
        if not isinstance(job.source, Path) or not job.output.exists():
            return False
        return not is_unfinished(job.output) or is_finished(job.output)
    return all(path.exists() for path in job.results())


def tidy_up_after(job: Job) -> None:
    """Removes what a job left behind that was killed after its result was complete."""
    for _ in job.own_folders():
        tidy_up(job.output)


@contextlib.contextmanager
def make_result_folders(jobs: Iterable[Job]) -> Iterator[None]:
    """Creates the folders that results need; those that are still empty at the end of the block are removed."""
    made = []
    wanted = [job.output.parent for job in jobs if job.own_folder and not is_stored(job.output)]
    for folder in dict.fromkeys(folder for own in wanted for folder in (own.parent, own)):
        if not folder.exists() and folder.parent.is_dir():
            check_folder_writable(folder.parent, "-o")
            folder.mkdir()
            sync_folder(folder.absolute().parent)
            made.append(folder)
    try:
        yield
    finally:
        for folder in reversed(made):
            with contextlib.suppress(OSError):  # it holds results
                folder.rmdir()


def _check_sequences_apart(jobs: Sequence[Job]) -> None:
    """Raises InputError where the numbered images of one job could have the names of another's results."""
    for job in jobs:
        if not is_written_sequence(job.output):
            continue
        for other in jobs:
            if other is not job and any(is_image_of(job.output, path) for path in other.results()):
                raise InputError(
                    f"{job.shown} and {other.shown} would both write images into {job.output.parent}",
                    "translate them in separate runs, with another -o",
                )


def _names_a_file(output: Path) -> bool:
    return "%" in output.name or output.suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES


def _called(job: Job, path: Path, *, alone: bool) -> str:
    if job.kind == "folder":
        return "the input folder itself" if path == job.source else "an image of the input folder"
    return "the input itself" if alone else "one of the inputs"


def files_left_out(sources: Sequence[str]) -> dict[str, tuple[tuple[str, int], ...]]:
    """The files of folders among the sources that no job takes, by folder; as `FolderListing.left_out`."""
    folders = [source for source in dict.fromkeys(sources) if not is_address(source) and Path(source).is_dir()]
    return {folder: found for folder in folders if (found := list_folder(Path(folder)).left_out)}


@dataclass(frozen=True)
class _Suffixes:
    """Of results without a name of their own."""

    video: str
    moving: Mapping[str, str]

    def of(self, path: Path) -> str:
        """For the video or animated image `path`."""
        kind = kind_of(path)
        return self.moving.get(kind.format, self.video) if kind is not None and kind.role == "animation" else self.video


def _jobs(source: str, output: Path | None, domain: str, suffixes: _Suffixes, *, alone: bool) -> list[Job]:
    if is_stored(source):
        return _stored_jobs(source, output, domain, suffixes, alone=alone)
    if is_address(source):
        check_address(source)
        beside = default_output(Path.cwd() / f"{name_of(source)}.stream", domain, suffixes.video)
        return [Job(kind="video", source=source, output=_output(output, beside, alone=alone), own_folder=not alone)]
    if is_piped_in(source):
        return [Job(kind="video", source=source, output=output or Path(source))]
    if is_sequence(source):
        folder = Path(source).absolute().parent
        pattern = default_output(folder, domain, "") / _numbered(Path(source).name)
        own = output is None or not alone
        return [Job(kind="video", source=source, output=_output(output, pattern, alone=alone), own_folder=own)]
    check_not_almost_address(source)
    path = Path(source)
    if not path.exists():
        raise InputError(f"{source} does not exist", "check the spelling and the folder")
    if path.is_dir():
        return _folder_jobs(path, output, domain, suffixes, alone=alone)
    found = kind_of(path)
    # What is refused (JPEG XL, camera raw) is refused where images are read.
    kind: Kind = "image" if found is not None and found.role in ("image", "unread") else "video"
    if kind == "video" and alone and output is not None and means_one_frame(path, output):
        kind = "frame"
    beside = default_output(path, domain, image_suffix(path) if kind == "image" else suffixes.of(path))
    return [Job(kind=kind, source=path, output=_output(output, beside, alone=alone), own_folder=not alone)]


def _stored_jobs(source: str, output: Path | None, domain: str, suffixes: "_Suffixes", *, alone: bool) -> list[Job]:
    """For an address of an object store: what its files are is decided by their names."""
    jobs = []
    found = list_stored(source)
    for address in found:
        path = StorePath(address)
        kind: Kind = "image" if path.suffix.lower() in IMAGE_SUFFIXES - {".gif"} else "video"
        suffix = image_suffix(path) if kind == "image" else suffixes.video
        end = "-" + re.sub(r"[^\w.-]+", "-", domain) + suffix
        beside = path.with_name(path.stem + end)
        result = _output(output, beside, alone=alone and len(found) == 1)
        jobs.append(Job(kind=kind, source=address, output=result, own_folder=not is_stored(result) and not alone))
    return jobs


def _folder_jobs(folder: Path, output: Path | None, domain: str, suffixes: _Suffixes, *, alone: bool) -> list[Job]:
    found = list_folder(folder)
    if not found.images and not found.animations and not found.videos:
        line = left_out_line(found.left_out)
        raise InputError(
            f"{folder} holds no images and no videos{f' ({line})' if line else ''}",
            "name a folder that does, or a file",
        )
    default = default_output(folder, domain, "")
    if output is not None and is_piped_out(output):
        return [Job(kind="folder", source=folder, output=output)]  # refused, see `piped`
    if found.images and output is not None and is_stored(output):
        raise InputError(
            f"{folder} holds images, and {output} is in an object store", "list the images in a manifest instead"
        )
    results = default if output is None else output if alone else output / default.name
    jobs = [Job(kind="folder", source=folder, output=results, own_folder=not alone)] if found.images else []
    moving = sorted((*found.videos, *found.animations))
    names = Counter(f"{path.stem}{suffixes.of(path)}" for path in moving)
    names.update(result_names(found.images).values())
    for path in moving:
        suffix = suffixes.of(path)
        own = path in found.animations and path.suffix.lower() == suffix
        name = path.stem if own or names[f"{path.stem}{suffix}"] == 1 else path.name  # a.mp4 and a.mov
        jobs.append(Job(kind="video", source=path, output=results / f"{name}{suffix}", own_folder=True))
    return jobs


def _output(output: Path | None, beside: Path, *, alone: bool) -> Path:
    """`beside`, or its name in the folder `output`; `output` itself where it names a single result."""
    if output is None:
        return beside
    if is_piped_out(output):
        return output
    if is_stored(output):
        return output if alone and output.suffix else output / beside.name
    return output / beside.name if output.is_dir() or not alone else output


def _numbered(name: str) -> str:
    return name if "%" in name else f"%05d{Path(name).suffix.lower()}"
