"""Check the paths of files and folders before anything is read, computed or written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from ranking_det.files import partial_path
from ranking_det.user_errors import UserError, show


def check_file(path: str, what: str) -> None:
    """Check that a file exists.

    Args:
        path: the file. A path with a scheme, such as a URL, is not checked.
        what: the flag or config key of the file, or a name for it, for the message.

    Raises:
        UserError: the file does not exist, or is a folder, a pipe or a device.
    """
    if "://" in path:
        return
    if Path(path).is_dir():
        raise UserError(f"{what}: expected a file, got the folder {path!r}")
    if not Path(path).exists():
        raise UserError(f"{what}: {path!r} does not exist (current folder: {Path.cwd()})")
    if not Path(path).is_file():  # reading a pipe could wait without end
        raise UserError(f"{what}: expected a file, got the pipe or device {path!r}")


def check_outputs(inputs: Mapping[str, str], outputs: Mapping[str, str | None]) -> None:
    """Check that files can be written, before anything is computed.

    Args:
        inputs: maps a name for messages to the path of each file that is read.
        outputs: maps each flag to the path of a file to write; None for a flag that is not given.

    Raises:
        UserError: a path cannot be a new file, or is also another of these paths.
    """
    used_by = {Path(path).resolve(): name for name, path in inputs.items()}
    for flag, path in outputs.items():
        if path is None:
            continue
        if not path:
            raise UserError(f"{flag}: expected a file, got {path!r}")
        final = Path(path).resolve()
        if not os.access(final.parent, os.W_OK | os.X_OK) or not final.parent.is_dir():
            raise UserError(f"{flag} {path}: {final.parent} is not a writable folder")
        partial = partial_path(final)
        if len(os.fsencode(partial.name)) > os.pathconf(final.parent, "PC_NAME_MAX"):
            raise UserError(f"{flag} {path}: no file can have the name {partial.name}")
        for file in (final, partial):
            if file.exists() and not file.is_file():
                raise UserError(f"{flag} {file} is a folder or device, not a file")
            if file.resolve() in used_by:
                raise UserError(f"{flag} {file} is also {used_by[file.resolve()]}")
        used_by |= {final: flag, partial: flag}


def check_output_dir(path: str | None, key: str) -> None:
    """Check that a folder is writable, or can be created.

    Args:
        path: the folder; it need not exist.
        key: the flag or config key of the folder, for the message.

    Raises:
        UserError: the path is empty, a URL, a file or a broken link, has a name that is too long,
            or cannot be written to.
    """
    if not path:
        raise UserError(f"{key}: expected a folder, got {path!r}")
    if "://" in path:
        raise UserError(f"{key}: expected a folder of this machine, got {path!r}")
    folder = Path(path).absolute()
    # A broken link or a loop of links exists, but it is not a folder and blocks a new one.
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(
            f"{key}: expected a writable folder, got {path!r} ({folder} is not a writable folder)"
        )
    longest = os.pathconf(folder, "PC_NAME_MAX")
    if any(len(os.fsencode(name)) > longest for name in Path(path).parts):
        raise UserError(f"{key}: expected names of at most {longest} bytes, got {show(path)}")


def check_apart(output_dir: str, inputs: Mapping[str, str | None], key: str) -> None:
    """Refuse an output folder with the user's own files, which could be replaced.

    Args:
        output_dir: the folder; it need not exist.
        inputs: maps each flag to the file or folder that the user gives; None for a flag that is
            not given.
        key: the flag or config key of the output folder, for the message.

    Raises:
        UserError: the folder is one of these folders, or has one of these files.
    """
    for flag, given in inputs.items():
        # Unlike Path.resolve, realpath accepts links that lead in a circle.
        path = os.path.realpath(given or "/")
        folder = os.path.dirname(path) if os.path.isfile(path) else path
        if output_dir and folder == os.path.realpath(output_dir):
            text = f"expected a folder other than that of {flag}"
            raise UserError(f"{key}: {text}, got {output_dir!r}")


def check_no_folder(folder: str, names: Iterable[str], key: str) -> None:
    """Refuse a folder in which something that is not a file has the name of a file to be written.

    Args:
        folder: the folder; it need not exist.
        names: the names of the files to be written.
        key: the flag or config key of the folder, for the message.

    Raises:
        UserError: a folder, a broken link or a device has one of the names.
    """
    for path in (Path(folder, name) for name in names):
        if os.path.lexists(path) and not path.is_file():
            raise UserError(f"{key}: expected a file or nothing at {path}, got something else")
