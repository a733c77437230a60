"""Where a user's path leads: to a local file or folder, into an installed pip package, or nowhere (a Hub name)."""

import importlib.util
import re
from pathlib import Path

from jaxft.errors import UserError, nearest


def resolve(path: str) -> Path | None:
    """The file or folder that `path` names, or None where nothing of that name exists (it may be a Hub name then).

    Args:
      path: a local path (`~` is expanded) or `pkg://PACKAGE/SUB/PATH`, which points into an installed pip package
        without importing it.

    Raises:
      UserError: `pkg://` names a package that is not installed, or a path that the package does not have.
    """
    if path.startswith("pkg:"):
        return _inside_package(path)
    local = Path(path).expanduser()
    return local if path and local.exists() else None


def looks_local(path: str) -> bool:
    """Whether a path that leads nowhere was meant as a local one rather than as a Hub name (`NAME` or `OWNER/NAME`)."""
    if path.startswith(("/", "./", "../", "~")) or path in (".", "..") or path.count("/") > 1:
        return True
    has_suffix = re.search(r"\.[A-Za-z]\w*$", path) is not None
    return has_suffix and Path(path).parent.is_dir()


def missing(path: str | Path) -> str:
    """Says that a local path does not exist, and names what lies nearest in the deepest folder of it that does."""
    wanted = Path(path).expanduser()
    folder, name = wanted.parent, wanted.name
    while not folder.exists():
        folder, name = folder.parent, folder.name
    if not folder.is_dir():
        return f"there is no {wanted}; {folder} is a file, not a folder"
    return f"there is no {wanted}; in {folder.resolve()}: {nearest(name, _visible(folder))}"


def file_of(flag: str, path: str) -> Path:
    """Returns the file that the value of a flag names, as an absolute path.

    Raises:
      UserError: there is none.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        raise UserError(f"{flag}: {file} is a folder; give a file")
    if not file.is_file():
        raise UserError(f"{flag}: {missing(file)}")
    return file.absolute()


def _visible(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if not entry.name.startswith((".", "__"))]


def _inside_package(path: str) -> Path:
    match = re.fullmatch(r"pkg://([A-Za-z_]\w*)(?:/(.*))?", path)
    if match is None:
        raise UserError(f"{path!r} is not of the form pkg://PACKAGE/SUB/PATH")
    package, rest = match[1], (match[2] or "").strip("/")
    # For a top-level name find_spec only looks for the package; for a dotted one it would import the parent.
    spec = importlib.util.find_spec(package)
    if spec is None:
        guess = package.replace("_", "-")
        raise UserError(f"{path}: the package {package!r} is not installed; try: pip install {guess}")
    roots = [Path(root) for root in spec.submodule_search_locations or ()]
    if not roots:
        raise UserError(f"{path}: {package!r} is a single module, not a package with files inside")
    for root in roots:
        if (root / rest).exists():
            return root / rest
    raise UserError(f"{path}: {missing(roots[0] / rest)}")
