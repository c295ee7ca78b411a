"""The result of `frostline.advise`: sentences, tables and the next command."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from frostline.report.advice import Standing


@dataclass(frozen=True, repr=False)
class Advice:
    """Estimates of the worth and cost of backbones, made before a sweep."""

    found: Any
    """All numbers (`frostline.sweeps.advice.BackboneComparison`)."""

    def __repr__(self) -> str:
        return f"<Advice on {', '.join(one.backbone.name for one in self.standings)}>"

    @property
    def standings(self) -> list[Standing]:
        """The backbones, best linear probe first, and whether each differs significantly from the first."""
        from frostline.report.advice import standings

        return standings(self.found.backbones)

    @property
    def command(self) -> str:
        """The command of the sweep to run next."""
        from frostline.report.advice import next_sweep

        return next_sweep(self.found)

    @property
    def said(self) -> list[str]:
        """The conclusions, the next command, and the limits of this advice, a sentence each."""
        from frostline.report.advice import sentences

        return list(sentences(self.found))

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with a row per backbone and stage: scores of the activations above the stage."""
        return self._table("borders")

    def costs(self) -> pd.DataFrame:
        """Return a table with a row per backbone and freeze mode: times in seconds, memory in bytes."""
        return self._table("costs")

    def _table(self, part: str) -> pd.DataFrame:
        import pandas as pd

        from frostline.report.advice import facts

        return pd.DataFrame(
            [{"backbone": one["name"], **row} for one in facts(self.found)["backbones"] for row in one[part]]
        )

    def _repr_html_(self) -> str:
        """Return the sentences and both tables, for a notebook."""
        tables = [one.to_html(index=False, float_format="{:.4g}".format) for one in (self.to_pandas(), self.costs())]
        return "".join([*(f"<p>{escape(sentence)}</p>" for sentence in self.said), *tables])
