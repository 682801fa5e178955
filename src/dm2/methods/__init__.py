"""How agents become a team that learns: the list of methods.

To add a method, write one file with its settings (see `dm2.methods.base`) and add one line here.
"""

from dm2.errors import InputError
from dm2.methods.base import Settings
from dm2.methods.bc import BC
from dm2.methods.centralised.magail import MAGAIL
from dm2.methods.centralised.qmix import IQL, QMIX, VDN
from dm2.methods.centralised.rmappo import RMAPPO
from dm2.methods.dm2 import DM2, GAIL
from dm2.methods.ippo import IPPO
from dm2.methods.sil import SIL

__all__ = [
    "BC",
    "DM2",
    "GAIL",
    "IPPO",
    "IQL",
    "MAGAIL",
    "METHODS",
    "QMIX",
    "RMAPPO",
    "SIL",
    "VDN",
    "Settings",
    "settings_class",
]

METHODS: dict[str, type[Settings]] = {
    settings.name: settings
    for settings in (
        IPPO,
        DM2,
        GAIL,
        SIL,
        BC,
        MAGAIL,
        RMAPPO,
        QMIX,
        VDN,
        IQL,
    )
}
"""Every method's settings by the name that the command line and the files of a run use."""


def settings_class(name: object) -> type[Settings]:
    """The settings of the method called `name`. Raises InputError for an unknown name."""
    if not isinstance(name, str) or name not in METHODS:
        raise InputError(f"method = {name!r}: must be one of {', '.join(METHODS)}")
    return METHODS[name]
