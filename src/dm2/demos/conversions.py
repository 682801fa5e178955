"""Demonstrations made of recordings in other formats, and written in them, as methods of a class.

What each of them does stands in `importing` and `exporting`, which know demonstrations and are
therefore imported only when a method is called.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, no_type_check

from dm2.demos.fields import Dtype
from dm2.demos.importing.layout import NameMap

if TYPE_CHECKING:
    from dm2.demos.dataset import Demonstrations

__all__ = ["Conversions", "Files"]

Files = str | Path | Sequence[str | Path]


# What is called checks what it is given and answers with an InputError.
@no_type_check
class Conversions:
    """What `Demonstrations` can be made of, and what they can be written as."""

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, Any],
        env: Any,
        *,
        dtype: Dtype | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> "Demonstrations":
        """Makes demonstrations of a recording that was made elsewhere, from arrays in memory.

        Args:
            arrays: The fields, each one padded array of all episodes or a list of one array an
                episode (see `dm2.demos.importing.arrays`); `observations` at least.
            env: The environment, or its name, which says how many agents, features and actions
                there must be.
            dtype: The type in which observations are stored; by default what suits the environment
                (see `from_episodes`).
            provenance: Entries to add to the provenance.

        Returns:
            The demonstrations of the team.

        Raises:
            InputError: If a field does not fit; the message names the place, the value and the
                remedy.

        Example:
            Two episodes of `smax/3m`, of 9 and of 12 steps, of which observations are all there is.

                Demonstrations.from_arrays({"observations": [first, second]}, "smax/3m")
        """
        from dm2.demos.importing.formats import from_arrays

        return from_arrays(arrays, env, dtype=dtype, provenance=provenance)

    @classmethod
    def from_npz(
        cls,
        files: Files,
        env: Any,
        *,
        mapping: NameMap | None = None,
        each: Literal["recording", "episode", "agent"] = "recording",
        dtype: Dtype | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> "Demonstrations":
        """Makes demonstrations of `.npz` or `.npy` files (see `dm2.demos.importing.npz`).

        Args:
            files: The file, or the files.
            env: The environment, or its name (see `from_arrays`).
            mapping: The keys of fields that are called otherwise, for example
                `{"observations": "obs"}`.
            each: What each file holds: joint episodes, one joint episode, or one agent's part of
                all episodes, in the agents' order.
            dtype: The type in which observations are stored (see `from_arrays`).
            provenance: Entries to add to the provenance.

        Returns:
            The demonstrations of the team.

        Raises:
            InputError: If a file cannot be read, holds Python objects, or does not fit.
        """
        return _imported(
            files, env, "npz", mapping=mapping, each=each, dtype=dtype, provenance=provenance
        )

    @classmethod
    def from_csv(
        cls,
        files: Files,
        env: Any,
        *,
        mapping: NameMap | None = None,
        dtype: Dtype | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> "Demonstrations":
        """Makes demonstrations of CSV files, one row a step and agent (see
        `dm2.demos.importing.table`).

        Args:
            files: The file, or several that are one table.
            env: The environment, or its name (see `from_arrays`).
            mapping: The columns that are called otherwise, for example `{"obs": ["x", "y"]}` or
                `{"obs": "feature_*"}`.
            dtype: The type in which observations are stored (see `from_arrays`).
            provenance: Entries to add to the provenance.

        Returns:
            The demonstrations of the team.

        Raises:
            InputError: If a file cannot be read or does not fit; the message names the row, the
                column, the value and the remedy.
        """
        return _imported(files, env, "csv", mapping=mapping, dtype=dtype, provenance=provenance)

    @classmethod
    def from_parquet(
        cls,
        files: Files,
        env: Any,
        *,
        mapping: NameMap | None = None,
        dtype: Dtype | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> "Demonstrations":
        """Makes demonstrations of Parquet files, with the columns that `from_csv` takes. It needs
        `pip install 'dm2[parquet]'`.

        Args:
            files: The file, or several that are one table.
            env: The environment, or its name (see `from_arrays`).
            mapping: The columns that are called otherwise (see `from_csv`).
            dtype: The type in which observations are stored (see `from_arrays`).
            provenance: Entries to add to the provenance.

        Returns:
            The demonstrations of the team.

        Raises:
            InputError: If a file cannot be read or does not fit; the message names the row, the
                column, the value and the remedy.
        """
        return _imported(files, env, "parquet", mapping=mapping, dtype=dtype, provenance=provenance)

    @classmethod
    def from_minari(
        cls,
        datasets: Files,
        env: Any,
        *,
        mapping: NameMap | None = None,
        dtype: Dtype | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> "Demonstrations":
        """Makes demonstrations of Minari datasets that are on this machine (see
        `dm2.demos.importing.minari`). It needs `pip install 'dm2[minari]'`.

        Args:
            datasets: The names or folders of one dataset for each agent, in the agents' order
                unless `to_minari` wrote them, or of one dataset of the team.
            env: The environment, or its name (see `from_arrays`).
            mapping: `{"agents": ["red", "green"]}` says in what order the agents of a dictionary
                are.
            dtype: The type in which observations are stored (see `from_arrays`).
            provenance: Entries to add to the provenance.

        Returns:
            The demonstrations of the team.

        Raises:
            InputError: If a dataset is not there, cannot be read, or does not fit.
        """
        return _imported(
            datasets, env, "minari", mapping=mapping, dtype=dtype, provenance=provenance
        )

    @classmethod
    def from_vault(
        cls,
        vaults: Files,
        env: Any,
        *,
        mapping: NameMap | None = None,
        dtype: Dtype | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> "Demonstrations":
        """Makes demonstrations of Flashbax's vaults, such as OG-MARL's (see
        `dm2.demos.importing.vault`). It needs `pip install 'dm2[flashbax]'`.

        Args:
            vaults: The folders of the vaults.
            env: The environment, or its name (see `from_arrays`).
            mapping: The keys of fields that are called otherwise. `{"agents": ["red", "green"]}`
                says in what order the agents of a dictionary are, `{"dead": "zeros"}` that who
                observes zeros alone until the end is dead.
            dtype: The type in which observations are stored (see `from_arrays`).
            provenance: Entries to add to the provenance.

        Returns:
            The demonstrations of the team.

        Raises:
            InputError: If a vault is not there, cannot be read, or does not fit.
        """
        return _imported(vaults, env, "vault", mapping=mapping, dtype=dtype, provenance=provenance)

    @classmethod
    def from_authors(
        cls,
        files: Files,
        env: Any,
        *,
        dtype: Dtype | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> "Demonstrations":
        """Makes demonstrations of the files that the authors of DM² published (see
        `dm2.demos.importing.authors`). Nothing in them is run.

        Args:
            files: The folder that has `agent_0.npz` and so on, or these files in the agents' order.
            env: The environment, or its name (see `from_arrays`).
            dtype: The type in which observations are stored (see `from_arrays`).
            provenance: Entries to add to the provenance.

        Returns:
            The demonstrations of the team.

        Raises:
            InputError: If a file cannot be read, names anything that is no part of an array, or
                does not fit.
        """
        return _imported(files, env, "authors", dtype=dtype, provenance=provenance)

    def to_npz(self, path: str | Path, *, overwrite: bool = False) -> int:
        """Writes the demonstrations as padded arrays to an `.npz` file, which `from_npz` reads.

        Args:
            path: The file to write, as a whole or not at all.
            overwrite: Whether another file of that name may be replaced.

        Returns:
            The size of the file in bytes.

        Raises:
            InputError: If the path is unusable or taken, or if agents come from different episodes.
            OSError: If the disk fails.
        """
        from dm2.demos.exporting import to_npz

        return to_npz(cast("Demonstrations", self), path, overwrite=overwrite)

    def to_minari(self, name: str, *, overwrite: bool = False) -> list[str]:
        """Writes the demonstrations as Minari datasets, one for each agent, which `from_minari`
        reads. It needs `pip install 'dm2[minari]'`.

        Args:
            name: What the team is called, for example `smax/3m`; agent `k` is then
                `smax/3m/agent_k-v0`. The metadata of each says how the team is laid out.
            overwrite: Whether datasets of these names may be replaced. Others of the same
                beginning stay.

        Returns:
            The names of the datasets.

        Raises:
            InputError: If the name is unusable or taken, or if agents come from different episodes.
            OSError: If the disk fails.
        """
        from dm2.demos.exporting import to_minari

        return to_minari(cast("Demonstrations", self), name, overwrite=overwrite)


def _imported(files: Any, env: Any, file_format: str, **options: Any) -> "Demonstrations":
    from dm2.demos.importing.formats import from_files

    return from_files(files, env, file_format, **options)
