"""Work of an operator on the members: make a change, and sign it as a member.

Nothing here needs the node to run. The roster of now comes from the node's folder, or from the
configuration where no node ran in it yet.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs

from qres_core.contract.errors import CompatibilityError, ConfigError, QresError
from qres_core.contract.types import NODE_ID_BYTES, NodeId, NodeInfo
from qres_core.contract.verdict import ACCEPT
from qres_core.kernel.compliance import enforce
from qres_core.kernel.config import Config
from qres_core.kernel.discovery import Installed, scan
from qres_core.kernel.index import plugin_index
from qres_core.kernel.kernel import Kernel
from qres_core.kernel.policy import SitePolicy
from qres_core.swarm.ledger.roster import Roster, RosterChange
from qres_core.swarm.members.pending_changes import (
    PendingChanges,
    change_files,
    read_change,
    read_members,
)

_NOBODY: Final = bytes(NODE_ID_BYTES)


def home_of(config: Config) -> Path:
    """The node's folder. Raises ConfigError: QRES-E103 where the configuration names none."""
    if config.node.data_dir is None:
        fix = "name the folder of the node, which is where it looks for changes"
        raise ConfigError.of("QRES-E103", "node.data_dir", "not set", fix)
    return Path(config.node.data_dir)


def roster_of(config: Config) -> Roster:
    """The roster of now: what the node keeps in its folder, else the first one, in the file.

    Raises ConfigError: QRES-E103 for a file without a roster, QRES-E105 for impossible numbers.
    Raises RoundError: QRES-E602 for a damaged file in the folder.
    """
    swarm = config.swarm
    if config.node.data_dir is not None:
        found = read_members(Path(config.node.data_dir), swarm.name)
        if found is not None:
            return found
    if not swarm.roster:
        fix = "list the identities of all nodes; `qres key show` prints a key's"
        raise ConfigError.of("QRES-E103", "swarm.roster", "the file does not list the nodes", fix)
    if swarm.nodes <= 3 * swarm.byzantine:
        what = f"{swarm.nodes} nodes cannot agree with {swarm.byzantine} liars among them"
        fix = "take swarm.nodes and swarm.byzantine from the file of a node of the swarm"
        raise ConfigError.of("QRES-E105", "swarm.byzantine", what, fix)
    members = tuple(sorted(bytes.fromhex(text) for text in swarm.roster))
    return Roster(members, swarm.byzantine, swarm.quorum, swarm.roster_epoch)


def check_change(
    config: Config,
    roster: Roster,
    change: RosterChange,
    policies: Sequence[SitePolicy] = (),
    installed: Mapping[str, Installed] | None = None,
) -> Roster:
    """See whether this node's configuration holds after a change.

    An operator must not sign what the plugins cannot work with: the rule may need more updates than
    the next quorum gives, and an identity may be no key.

    Args:
        config: the node's.
        roster: the one of now.
        change: whoever signed it.
        policies: site policies, which must be met after the change too.
        installed: plugins by name instead of those of the environment.

    Returns:
        the roster after the change.

    Raises:
        RosterError: QRES-E607 for a change of another swarm or roster and for an impossible one.
        CompatibilityError: QRES-E3xx for what the plugins do not work with.
        ConfigError: what a plugin refuses about the members.
    """
    PendingChanges(config.swarm.name, roster).offer(change, lambda _message: False)
    after = roster.after(change)
    swarm = attrs.evolve(
        config.swarm,
        nodes=len(after),
        byzantine=after.byzantine,
        quorum=after.quorum,
        roster=tuple(member.hex() for member in after.members),
    )
    changed = attrs.evolve(config, swarm=swarm)
    found = scan() if installed is None else installed
    kernel = Kernel.from_config(changed, installed=found)
    enforce(policies, changed, kernel.enabled)
    with observer(changed, after, found):
        return after


def sign_change(
    config: Config,
    roster: Roster,
    change: RosterChange,
    now: float,
    installed: Mapping[str, Installed] | None = None,
) -> RosterChange:
    """Sign a change with this node's key. Whether it should be signed is asked before.

    Args:
        config: the node's, with its key.
        roster: the one of now.
        change: whoever signed it so far.
        now: seconds since 1970.
        installed: plugins by name instead of those of the environment.

    Returns:
        the change with this signature and the authentic ones of other members.

    Raises:
        CompatibilityError: QRES-E301 where no plugin authenticates messages or gives an identity.
        ConfigError: QRES-E105 for a node that is no member and one whose signature the plugins
            refuse; what a plugin refuses about the key.
    """
    kernel = Kernel.that_authenticates(config, installed=installed)
    node_id = kernel.identity(None)
    if node_id is None:
        what = "no enabled plugin gives this node an identity"
        fix = f"enable a plugin that keeps a key: {plugin_index().example('identity')}"
        raise CompatibilityError.of("QRES-E301", "identity", what, fix)
    if node_id not in roster:
        what = f"this node, {node_id.hex()}, is no member, and only members sign changes"
        raise ConfigError.of("QRES-E105", "swarm.roster", what, "let a member make the change")
    with _set_up(kernel, roster, node_id):
        signed = kernel.sign(change.statement(node_id, int(now * 1000)))
        verdict = kernel.quoted(signed, now)
        others = change.of_members(roster, lambda it: kernel.authentic(it, now))
    if verdict is not ACCEPT:
        what = f"the plugins refuse this node's own signature: {verdict.reason}"
        fix = "mend what would make the other nodes refuse it"
        raise ConfigError.of("QRES-E105", "plugins", what, fix)
    return attrs.evolve(others, signatures=()).signed([signed, *others.signatures])


def check_approval(
    config: Config,
    roster: Roster,
    change: RosterChange,
    now: float,
    installed: Mapping[str, Installed] | None = None,
) -> None:
    """See whether the swarm's authority approved a change.

    Raises ConfigError: QRES-E105 if not. Otherwise as :func:`observer`.
    """
    with observer(config, roster, scan() if installed is None else installed) as kernel:
        if not kernel.approved(change.digest, change.approval, now):
            what = "the authority that the plugins know did not approve this change"
            fix = "ask the authority to approve the digest that `qres roster read` prints"
            raise ConfigError.of("QRES-E105", "--approval", what, fix)


def waiting_at(
    config: Config, roster: Roster, now: float, installed: Mapping[str, Installed] | None = None
) -> tuple[tuple[RosterChange, ...], dict[str, str]]:
    """The changes in a node's folder with the signatures that count; why other files do not count.

    Raises ConfigError, CompatibilityError and PluginError: what is wrong with the configuration.
    """
    waiting = PendingChanges(config.swarm.name, roster)
    problems: dict[str, str] = {}
    paths = change_files(home_of(config))
    if paths:
        with observer(config, roster, scan() if installed is None else installed) as kernel:
            for path in paths:
                try:
                    waiting.offer(read_change(path), lambda it: kernel.authentic(it, now))
                except QresError as error:
                    problems[path.name] = str(error)
    return waiting.waiting, problems


@contextmanager
def observer(
    config: Config, roster: Roster, installed: Mapping[str, Installed]
) -> Generator[Kernel]:
    """The plugins that tell who made a message of these members, set up; they need no key.

    Raises CompatibilityError, PluginError and ConfigError: what is wrong with the configuration, or
    with the members.
    """
    kernel = Kernel.that_authenticates(config, installed=installed)
    with _set_up(kernel, roster, None):
        yield kernel


@contextmanager
def _set_up(kernel: Kernel, roster: Roster, node_id: NodeId | None) -> Generator[None]:
    info = NodeInfo(
        _NOBODY if node_id is None else node_id,
        kernel.swarm.name,
        roster.members,
        roster.byzantine,
        observer=node_id is None,
    )
    try:
        kernel.setup(info)
        yield
    finally:
        kernel.teardown()
