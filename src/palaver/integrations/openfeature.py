"""Flags for those who ask through OpenFeature: a provider for its Python SDK (the extra `openfeature`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from palaver.errors import did_you_mean
from palaver.extras import named_extras
from palaver.flags import Evaluation, Experiment, Flag, Flags

with named_extras():
    from openfeature.evaluation_context import EvaluationContext
    from openfeature.event import ProviderEventDetails
    from openfeature.exception import FlagNotFoundError, TargetingKeyMissingError, TypeMismatchError
    from openfeature.flag_evaluation import FlagMetadata, FlagResolutionDetails, FlagValueType, Reason
    from openfeature.provider import AbstractProvider, Metadata

_REASONS = {
    "target": Reason.TARGETING_MATCH,
    "rollout": Reason.SPLIT,
    "split": Reason.SPLIT,
    "everybody": Reason.STATIC,
    # With an error code the client would take the caller's default, and the declared one is the one that was chosen to be safe.
    "default": Reason.DEFAULT,
    "mismatch": Reason.DEFAULT,
    "unread": Reason.DEFAULT,
}

Object = Sequence[FlagValueType] | Mapping[str, FlagValueType]


class PalaverProvider(AbstractProvider):
    """Answers from `Flags`, without waiting, from any thread.

    The targeting key is the set's first target, normally the user; attributes named like the other targets are those, further ones
    are not looked at. An unknown flag is FLAG_NOT_FOUND, another type TYPE_MISMATCH, an experiment without a targeting key
    TARGETING_KEY_MISSING: then the caller's default holds. In every other case it is the declared one, also while nothing could be
    read (`flag_metadata["reason"]` says "unread"). With `expose` an evaluation that the hash of an experiment decided is an exposure.
    """

    def __init__(self, flags: Flags, *, expose: bool = False) -> None:
        super().__init__()
        if expose:
            flags.check_exposing()
        self._flags, self._expose = flags, expose
        self._unwatch: Callable[[], None] | None = None
        self._ok = True

    def get_metadata(self) -> Metadata:
        return Metadata("Palaver")

    def initialize(self, evaluation_context: EvaluationContext) -> None:
        self._ok = self._flags.health().status == "ok"
        self._unwatch = self._flags.watch(self._changed)

    def shutdown(self) -> None:
        """Stop telling of changes; the flags stay open, whoever opened them closes them."""
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None

    def resolve_boolean_details(
        self, flag_key: str, default_value: bool, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[bool]:
        return self._resolve(flag_key, ("bool",), evaluation_context)

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        return self._resolve(flag_key, ("str",), evaluation_context)

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        return self._resolve(flag_key, ("int",), evaluation_context)

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        details: FlagResolutionDetails[float] = self._resolve(flag_key, ("float", "int"), evaluation_context)
        # The client takes no int for a float.
        details.value = float(details.value)
        return details

    def resolve_object_details(
        self, flag_key: str, default_value: Object, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[Object]:
        return self._resolve(flag_key, ("dict", "list"), evaluation_context)

    def _resolve(self, key: str, kinds: tuple[str, ...], context: EvaluationContext | None) -> FlagResolutionDetails[Any]:
        declared = self._flags.declared
        flag = declared.flags.get(key)
        if flag is None:
            raise FlagNotFoundError(f"There is no flag of this name. {did_you_mean(key, declared.flags)}")
        if flag.kind not in kinds:
            raise TypeMismatchError(f"The flag is of type {flag.kind}.")
        targets = self._targets(context)
        evaluation = self._flags.evaluate(flag, **targets)
        if self._lacks_key(flag, evaluation, targets):
            raise TargetingKeyMissingError("Who gets which variant goes by the targeting key.")
        if self._expose and evaluation.reason == "split":
            self._flags.expose(key, **targets)
        variant = evaluation.value if isinstance(flag, Experiment) else None
        return FlagResolutionDetails(
            evaluation.value, reason=_REASONS[evaluation.reason], variant=variant, flag_metadata=self._metadata(evaluation)
        )

    def _targets(self, context: EvaluationContext | None) -> dict[str, str | int | None]:
        if context is None:
            return {}
        names = self._flags.declared.targets
        found = {name: value for name in names if isinstance(value := context.attributes.get(name), str | int)}
        return {**found, names[0]: context.targeting_key} if context.targeting_key else {**found}

    def _lacks_key(self, flag: Flag[Any], evaluation: Evaluation[Any], targets: Mapping[str, object]) -> bool:
        return (
            isinstance(flag, Experiment)
            and evaluation.reason == "default"
            and self._flags.declared.unit not in targets
            and self._flags.needs_unit(flag)
        )

    def _metadata(self, evaluation: Evaluation[Any]) -> FlagMetadata:
        return {
            "flagSetId": self._flags.declared.name,
            "reason": evaluation.reason,
            "scope": evaluation.scope,
            "revision": evaluation.revision,
        }

    def _changed(self, names: frozenset[str], ok: bool) -> None:
        if names:
            self.emit_provider_configuration_changed(ProviderEventDetails(flags_changed=sorted(names)))
        if ok != self._ok:
            self._ok = ok
            if ok:
                self.emit_provider_ready(ProviderEventDetails())
            else:
                self.emit_provider_stale(ProviderEventDetails(message="The records do not answer; what was read last holds."))
