"""Named errors with stable ids.

Every refusal in QRES is a :class:`Problem`: an id, *where* (a configuration key path or a message
field), *what* is wrong and *what to do* (``fix``). Exceptions carry one or more problems, so that a
configuration is reported whole and not one mistake at a time.

The exception tree::

    QresError
    ├── ConfigError          QRES-E1xx  the TOML file
    │   └── OptionError      QRES-E105  the value of one key; a ValueError too
    ├── PluginError          QRES-E2xx  discovery, import, registration
    ├── CompatibilityError   QRES-E3xx  slots, needs against hides, bounds
    ├── WireError            QRES-E4xx  bytes from elsewhere
    ├── ValueRefusedError    QRES-E5xx  vectors, weights, numbers; a trainer that fails
    ├── RoundError           QRES-E6xx  the round and its stored state
    │   ├── ModelError       QRES-E605  an exported model; QRES-E606 too
    │   └── RosterError      QRES-E607  a change of the members
    ├── HookError            QRES-E7xx  a plugin's hook at run time
    ├── LabError             QRES-E8xx  simulator, tasks, attacks, scaffolds
    └── TransportError       QRES-E9xx  limits and failures of a transport
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, Self

import attrs

ERRORS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "QRES-E101": (
            "configuration file unreadable",
            "The file is missing, is not a regular file, is not UTF-8, is over 1 MiB, or is not "
            "TOML. A byte order mark before UTF-8 is skipped. QRES never starts with defaults "
            "instead.",
        ),
        "QRES-E102": (
            "unknown key",
            "No part of QRES reads this key. It is nearly always a misspelt defence that would "
            "stay off. Correct or remove it; the message suggests the nearest known name. Of an "
            "option that went, it says why, and what to use instead.",
        ),
        "QRES-E103": ("required key missing", "The key has no safe default. Set it."),
        "QRES-E104": (
            "wrong type",
            'Types are not converted: `"2"` is not `2`, `2.7` is not an integer and `"false"` '
            "is not a boolean. Write the value in the type the reference gives.",
        ),
        "QRES-E105": (
            "value out of range",
            "The value has the right type but cannot work. The message names the bound.",
        ),
        "QRES-E106": (
            "cannot change while the node runs",
            "A reload takes other addresses of peers and another log level, and nothing else. "
            "No part of the changed file was taken. Bring the key back, or restart the node.",
        ),
        "QRES-E201": (
            "plugin not installed",
            "The configuration names a plugin that no installed distribution provides, or a "
            "command or an attack of such a distribution is asked for. Install the distribution "
            "named in the message, or correct the name.",
        ),
        "QRES-E202": (
            "plugin failed to import",
            "The plugin is installed, but its module raised when it was imported. The cause is "
            "chained. QRES never starts without a plugin that the configuration names.",
        ),
        "QRES-E203": (
            "plugin needs another qres-core",
            "The distribution's own `Requires-Dist: qres-core` excludes the running version. QRES "
            "checks this before it imports the plugin. Upgrade one of the two.",
        ),
        "QRES-E204": (
            "two distributions provide one plugin name",
            "QRES does not choose between them. Uninstall one.",
        ),
        "QRES-E205": (
            "plugin metadata outside site-packages",
            "A `*.dist-info` folder in the working directory or on an added path can pose as an "
            "installed distribution. Only metadata in the interpreter's own site-packages counts. "
            "Install the distribution with pip.",
        ),
        "QRES-E206": (
            "not a valid plugin",
            "The entry point does not lead to an attrs class with at least one `@hookimpl`, or a "
            "hook asks for arguments that its specification does not have.",
        ),
        "QRES-E207": (
            "unknown hook",
            "A method is marked `@hookimpl`, but no hook has its name. A misspelt hook would be a "
            "defence that never runs.",
        ),
        "QRES-E208": (
            "asynchronous hook",
            "Hooks are plain functions. A coroutine object is truthy, so an `async def` verdict "
            "would accept everything. Return a Dialogue for anything interactive.",
        ),
        "QRES-E209": (
            "forbidden hook option",
            "`wrapper`, `hookwrapper`, `tryfirst`, `trylast` and `optionalhook` are refused: a "
            "wrapper could overrule a verdict, and the order of plugins is the order of the TOML "
            "tables. Aggregation is wrapped with the `wrap_aggregate` hook.",
        ),
        "QRES-E210": (
            "claims missing or wrong",
            "A plugin with the hook `aggregate`, `wrap_aggregate`, `privatize`, `reveal`, `prove` "
            "or `verify` has no `claims`, or a value in them is wrong. QRES makes no assumptions "
            "about a plugin that does not state its promises. The guide on migrating a plugin "
            "shows what its authors write.",
        ),
        "QRES-E211": (
            "a name that nothing reads",
            "A public attribute of a plugin has the name of a hook or a claim, or nearly so, and "
            "nothing reads it. A misspelt promise would never be compared. Move it into `claims`, "
            "mark the hook, or rename it.",
        ),
        "QRES-E301": ("slot empty", "A swarm needs a plugin of this family. Enable one."),
        "QRES-E302": (
            "slot overfull",
            "More plugins fill the family than can be combined. Keep a single one.",
        ),
        "QRES-E303": (
            "visibility conflict",
            "One plugin hides data that another must see: for example, secure aggregation hides "
            "the single updates that Krum compares. Change one of the two named plugins.",
        ),
        "QRES-E304": (
            "too few updates for a plugin",
            "With `swarm.quorum` a round may close with fewer updates than a plugin needs. Raise "
            "the quorum or lower the plugin's bound.",
        ),
        "QRES-E305": (
            "a plugin needs another family",
            "The plugin's guarantee rests on a family that no enabled plugin fills. Enable a "
            "plugin of that family.",
        ),
        "QRES-E306": (
            "insecure swarm not declared",
            "Without an `authenticate` and a `replay_check` plugin anybody can speak for anybody. "
            "Enable them, or set `insecure = true` under `[swarm]` for experiments.",
        ),
        "QRES-E307": (
            "fault bound impossible",
            "Agreement among n nodes with f liars needs n >= 3f + 1. Add nodes, or promise to "
            "withstand fewer liars.",
        ),
        "QRES-E308": (
            "half a family",
            "`sign` and `authenticate`, and `prove` and `verify`, come in pairs. A single half "
            "signs messages that nobody checks, or checks signatures that nobody makes. Complete "
            "the plugin, or remove it.",
        ),
        "QRES-E309": (
            "aggregation rule weaker than the fault bound",
            "`swarm.byzantine` promises to withstand more liars than the rule can. Choose a rule "
            "for that bound, or lower the promise.",
        ),
        "QRES-E310": (
            "weights not usable",
            "A plugin cannot handle unequal weights, but another part of the configuration "
            "produces them: `swarm.weight_cap` above 1, or a reputation that weights nodes. Set "
            "`swarm.weight_cap = 1`, or let the reputation only ban (`exponent = 0`).",
        ),
        "QRES-E311": (
            "nothing to validate with",
            "A plugin judges updates by held-out examples, but this node's trainer has none. Give "
            "the trainer a `validate` method, or set `trainer.task.held_out` for a built-in task. "
            "An option that holds other nodes to the reference needs examples from a pool of all "
            "kinds. Leave it out, or let the trainer say `pooled = True`.",
        ),
        "QRES-E312": (
            "validation too late to vote",
            "A plugin judges a set of updates before the node votes for it, but another plugin "
            "reveals the updates only after the vote. Remove one of the two.",
        ),
        "QRES-E313": (
            "grid or ring too small",
            "The fixed-point grid is too coarse, or the ring too narrow, for the numbers of the "
            "configuration. The message names them. Change `swarm.scale`, the bound, or the "
            "number of nodes.",
        ),
        "QRES-E314": (
            "no safe parameters",
            "With this number of nodes, no parameters give the requested security or privacy. "
            "QRES does not choose weaker ones. Add nodes, or ask for less.",
        ),
        "QRES-E315": (
            "site policy not met",
            "The operator of this machine demands more than this configuration gives. The message "
            "names the policy file, its rule, the key and the value. Change the key, or ask the "
            "operator. A configuration cannot switch a policy off.",
        ),
        "QRES-E316": (
            "proof checks cannot be shared",
            'With `swarm.proof_checks = "committee"` a node believes other nodes about most '
            "proofs. That needs proofs, signed messages, and verdicts that are the same at every "
            "node. Otherwise every node has to check every proof.",
        ),
        "QRES-E317": (
            "cannot be resumed",
            "A plugin accounts for something that must not be forgotten, such as the privacy "
            "spent, but the checkpoint of a simulation does not hold it. Run the simulation from "
            "the start.",
        ),
        "QRES-E318": (
            "trainer without single examples",
            "The unit of privacy is a record, so QRES has to clip the step of each example. This "
            "node's trainer does not say what these steps are, or has more examples than the "
            "configuration allows a node. Give it `records` and `record_steps`, or raise the "
            "number.",
        ),
        "QRES-E319": (
            "rounds cannot be sharded",
            'With `swarm.aggregation = "sharded"` no node has whole updates. Committees merge '
            "ranges of coordinates. That needs signed messages, and a rule and wrappers that claim "
            "to read coordinates or products alone (`reads`), unless single updates are hidden and "
            "only their sums are opened. Other plugins must claim to read nothing of single "
            "updates. Otherwise every node has to take in every update. Committees of "
            "`swarm.shard_committee` members must be so large that liars hardly ever have the "
            "majority of one. Samples of `swarm.participants` must hold a quorum in at least every "
            "other round if f members are silent.",
        ),
        "QRES-E321": (
            "memory cannot be bounded",
            "With `swarm.memory` a node merges a range of coordinates at a time, and the rest of "
            "the contributions may be on the disk. That needs a rule and wrappers that claim to "
            "read coordinates alone. A plugin that looks at whole updates would have all of them "
            "in memory.",
        ),
        "QRES-E322": (
            "needs agreement among nodes",
            "Inside another framework one coordinator takes the place of agreement. There are no "
            "members that decide together, and a client hears others through the coordinator "
            "alone. The message names the key or the plugin that needs them. Leave it out, or run "
            "a swarm of nodes.",
        ),
        "QRES-E323": (
            "strategy needs single replies",
            "The strategy of another framework selects, weighs or noises single replies, but QRES "
            "hands it one merged reply: its defence would do nothing. Put a plain mean inside, and "
            "the rule or the privacy into the configuration.",
        ),
        "QRES-E401": (
            "message too large",
            "The frame is over the size limit. QRES did not parse it.",
        ),
        "QRES-E402": (
            "message malformed",
            "The bytes are not CBOR or do not have the expected shape.",
        ),
        "QRES-E403": (
            "message not canonical",
            "The bytes decode, but encode again differently (RFC 8949 section 4.2). Two encodings "
            "of one message would have two digests.",
        ),
        "QRES-E404": ("message field invalid", "A field has the wrong type, length or range."),
        "QRES-E405": (
            "payload digest mismatch",
            "The payload does not have the digest that the envelope names.",
        ),
        "QRES-E406": ("message version unknown", "This node does not speak that version."),
        "QRES-E501": (
            "value not finite",
            "The value is NaN or an infinity. QRES never averages, clips or maps such a value.",
        ),
        "QRES-E502": ("wrong shape", "The vector does not have the dimension of the model."),
        "QRES-E503": ("wrong dtype", "Vectors are int32 on the fixed-point grid."),
        "QRES-E504": ("scale out of range", "The power-of-two scale is outside -32..32."),
        "QRES-E505": (
            "too few updates",
            "There are fewer updates than the rule needs. QRES does not use a weaker rule instead.",
        ),
        "QRES-E506": ("weight invalid", "Weights are integers from 1 to 2**30."),
        "QRES-E507": ("update refused", "A plugin refuses to contribute in this round."),
        "QRES-E508": (
            "sum not the one committed to",
            "The masked updates do not add up to the sum that their senders committed to. Some "
            "node sent a vector other than the one it proved, or summed wrongly. The round is "
            "aborted.",
        ),
        "QRES-E509": (
            "privacy budget spent",
            "The round would spend more privacy than the ledger has left. The node contributes "
            "nothing more. Raise the budget only if the people behind the data agree.",
        ),
        "QRES-E510": (
            "proof cannot be made",
            "The update is outside the bound of the proof. The node contributes nothing to this "
            "round.",
        ),
        "QRES-E511": (
            "companion invalid",
            "A companion of an update may have at most 1 MiB, and its residues must be below "
            "their modulus.",
        ),
        "QRES-E512": (
            "trainer failed",
            "A method of the trainer raised, or returned an unusable value. The message names the "
            "method, the error or the value, and the line of the trainer's code. A real node "
            "contributes nothing to that round and goes on. A simulation stops.",
        ),
        "QRES-E513": (
            "no name of a fault",
            "A fact about a node is a `Fault` of QRES or an id of a plugin, `<plugin>:<id>`. The "
            "plugin gives the id alone, in lower-case words with hyphens.",
        ),
        "QRES-E514": (
            "merged update not as fitted",
            "The set that this node would propose merges to something worse than its plugin "
            "promises. The node proposes nothing in this round. The next proposer goes on.",
        ),
        "QRES-E601": (
            "model diverged",
            "After the same round, a quorum of nodes holds a digest that differs from this node's. "
            "The node stops, because its state or its software differs from theirs.",
        ),
        "QRES-E602": (
            "stored state unusable",
            "The store is missing, is corrupt, or belongs to another swarm.",
        ),
        "QRES-E603": (
            "transport failed",
            "The transport refused or lost a message that it must not lose.",
        ),
        "QRES-E604": (
            "protocol of a round failed",
            "A protocol between the nodes did not finish: too few nodes took part, or their "
            "messages contradict each other. The round is aborted and nothing is revealed.",
        ),
        "QRES-E605": (
            "model file unusable",
            "The file is not a model file of QRES, or a bit of it was changed. Export the model "
            "again, or ask for the file again.",
        ),
        "QRES-E606": (
            "model not decided",
            "As many nodes of the roster as decide a vote must have signed one decision for the "
            "model. They have not yet, or they signed another model, another step, another "
            "attempt or another swarm.",
        ),
        "QRES-E607": (
            "members cannot change so",
            "The change is for another roster, names a member that is not there or is there "
            "already, or leaves too few members for `swarm.byzantine` and `swarm.quorum`. The "
            "members stay as they are.",
        ),
        "QRES-E608": (
            "this node cannot merge",
            "To merge, a plugin needs state of earlier rounds that this node lacks, because it "
            "joined later or missed some. The node makes no claim about the round. It "
            "takes the model that others made.",
        ),
        "QRES-E701": (
            "hook raised",
            "A plugin raised an error. The message names the plugin and the hook.",
        ),
        "QRES-E702": (
            "hook returned the wrong thing",
            "A hook returned a verdict that is not a Verdict, a vector of another shape, or "
            "nothing.",
        ),
        "QRES-E801": (
            "unknown name",
            "No task, trainer, model, attack or executor has that name.",
        ),
        "QRES-E802": ("optional dependency missing", "Install the extra named in the message."),
        "QRES-E803": ("file in the way", "QRES does not overwrite your files."),
        "QRES-E804": (
            "worker died",
            "A process that trains in a simulation ended three times in a row. Most often it ran "
            "out of memory, or a library crashed in the trainer. `simulation.workers = 1` trains "
            "in the simulation's own process. A script that calls `simulate` with workers must do "
            'so under `if __name__ == "__main__"`, because each worker imports it.',
        ),
        "QRES-E901": (
            "too large to carry",
            "A frame, request, reply or blob is above the transport's limit. The transport sent "
            "nothing.",
        ),
        "QRES-E902": (
            "too many at once",
            "The rate limit or the number of open requests is used up. Try again later.",
        ),
        "QRES-E903": ("queue full", "A bounded queue has no room. Try again later."),
        "QRES-E904": ("peer not connected", "The requested node is not connected, or not known."),
        "QRES-E905": ("no answer in time", "The time limit for the answer is over."),
        "QRES-E906": (
            "not what was announced",
            "The received bytes do not have the announced hash.",
        ),
        "QRES-E907": (
            "request refused",
            "The other node refused the request, or failed to answer it.",
        ),
        "QRES-E908": (
            "kind of key not offered",
            "Nodes have Ed25519 keys. Something asked the transport for a key of another kind.",
        ),
        "QRES-E909": (
            "transport stands still",
            "The thread that carries the messages has not run for many seconds. No message comes "
            "or goes. The log names what it was doing, and the peer that it was doing it for.",
        ),
    }
)
"""Every error id, with its title and what it means. The reference page and `qres explain` are made
from this."""

ERROR_FAMILIES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "QRES-E1": "The configuration file",
        "QRES-E2": "Discovery, import and registration of plugins",
        "QRES-E3": "Combinations of plugins",
        "QRES-E4": "Bytes from other nodes",
        "QRES-E5": "Vectors, weights and numbers",
        "QRES-E6": "The round and its stored state",
        "QRES-E7": "A plugin's hook at run time",
        "QRES-E8": "Simulator, tasks, attacks and scaffolds",
        "QRES-E9": "Limits and failures of a transport",
    }
)
"""The subject of each family of ids, by the beginning of the ids."""


def _check_code(_instance: object, _attribute: object, value: Any) -> None:
    if value not in ERRORS:
        raise ValueError(value)


@attrs.frozen
class Problem:
    """One thing that is wrong.

    Attributes:
        code: an id of :data:`ERRORS`, for example ``QRES-E102``
        where: configuration key path (``plugins.krum.f``) or message field (``envelope.round``).
        what: what is wrong, with the offending value.
        fix: what to do about it; may be empty where ``what`` says it.
    """

    code: str = attrs.field(validator=_check_code)
    where: str
    what: str
    fix: str = ""

    def __str__(self) -> str:
        tail = f" ({self.fix})" if self.fix else ""
        return f"{self.code} {self.where}: {self.what}{tail}"


class QresError(Exception):
    """Base of every error QRES raises on purpose; ``problems`` is never empty.

    A problem that is given twice is told once.
    """

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = (
            (problems,) if isinstance(problems, Problem) else tuple(dict.fromkeys(problems))
        )
        if not self.problems:
            msg = "an error needs at least one problem"
            raise ValueError(msg)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[Self], tuple[tuple[Problem, ...]]]:
        """From the problems, not from their text: errors come back from worker processes."""
        return type(self), (self.problems,)

    @property
    def code(self) -> str:
        """The id of the first problem."""
        return self.problems[0].code

    @classmethod
    def of(cls, code: str, where: str, what: str, fix: str = "") -> Self:
        """Build the error from the parts of its single problem.

        Example:
            >>> raise WireError.of("QRES-E401", "frame", "70000 bytes, limit 65536")
            Traceback (most recent call last):
            ...
            qres_core.contract.errors.WireError: QRES-E401 frame: 70000 bytes, limit 65536
        """
        return cls(Problem(code, where, what, fix))


class ConfigError(QresError):
    """The configuration file or a value in it is refused."""


class OptionError(ConfigError, ValueError):
    """The value of one option is refused; ``where`` is its key within its own table.

    The kernel puts the path of the table before it. It is a :class:`ValueError` as well, for
    functions that take the same values as arguments.
    """


class PluginError(QresError):
    """A plugin named in the configuration cannot be used."""


class CompatibilityError(QresError):
    """The enabled plugins do not add up to what the configuration promises."""


class WireError(QresError):
    """Bytes from another node are refused. The only error a decoder raises."""


class ValueRefusedError(QresError):
    """A number, vector or weight is refused."""


class RoundError(QresError):
    """A round or the state behind it cannot go on."""


class ModelError(RoundError):
    """A model cannot be handed out, read or believed."""


class RosterError(RoundError):
    """The members cannot change so. They stay as they are."""


class HookError(QresError):
    """A plugin's hook raised or returned the wrong thing."""


class LabError(QresError):
    """A simulation, task, attack or scaffold cannot be made."""


class TransportError(QresError):
    """A transport cannot carry something. The node goes on."""
