"""The settings of an experiment, section by section: what can be chosen, and whether it can be."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model, field_validator, model_validator

from hyperpruning.lyapunov.distances import DISTANCES
from hyperpruning.models.language_model import LanguageModel
from hyperpruning.models.stack import LAYERS
from hyperpruning.search.criteria import OBJECTIVES
from hyperpruning.search.space import SAMPLERS, FloatRange, SearchSpace
from hyperpruning.sparsity.catalogue import METHODS
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.serialization import COMPONENTS, to_config
from hyperpruning.tasks.language_modelling import LanguageModelling
from hyperpruning.training.config import BOUNDS, CHOICES, TrainConfig


class Section(BaseModel):
    """Settings that belong together: frozen, and none that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _known(names: Collection[str]) -> Callable[[Any], Any]:
    """A validator: a name, or each of several, must be among those known; says the nearest one."""

    def check(value: Any) -> Any:
        chosen = (value,) if isinstance(value, str) else value
        for name in chosen:
            if chosen.count(name) > 1:
                raise ValueError(f"names each choice once, and {name!r} stands there twice: leave one out")
            if name not in names:
                raise ValueError(f"must be among {', '.join(names)}, and {name!r} is not{nearest(name, names)}")
        return value

    return check


def _each(rule: str, allowed: Callable[[Any], bool]) -> Callable[[Any], Any]:
    """A validator: a value, or each of several in a list or table, must be what the rule says."""

    def check(value: Any) -> Any:
        several = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
        if not all(allowed(one) for one in several):
            raise ValueError(f"must be {rule}, and {value!r} is not: change it")
        return value

    return check


def nearest(name: object, names: Collection[str]) -> str:
    """What to say after an unknown name: the known one that is nearest, if one is near."""
    near = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.5)
    return f": did you mean {near[0]!r}?" if near else ": choose one of them"


def _number(name: str, description: str) -> Any:
    """A number of the trainings, with the default and the bounds that it has there."""
    default = getattr(TrainConfig if hasattr(TrainConfig, name) else LanguageModelling, name)
    return Field(default, description=description, **BOUNDS[name])


class Data(Section):
    """What is learnt."""

    folder: Path | None = Field(None, description="folder with train/valid/test text; left out: Python's help texts")
    unit: Literal["word", "character"] = Field("character", description='a token is a "word" or a "character"')
    known: Literal["ptb", "wikitext-2"] | None = Field(None, description="check the files against the published ones")
    share: float = _number("share", "of each split, its first part; 1: all; less for trials")
    eval_batch: int = _number("eval_batch", "columns read side by side for the validation loss")
    test_batch: int = _number(
        "test_batch", "the same for the reported test loss; 1: the context never starts anew; published code: 20"
    )


class Model(Section):
    """The network."""

    cell: str = Field("lstm", description=f"one of {', '.join(LAYERS)}")
    embedding: int = _number("embedding", "size of the embedding")
    hidden: int | tuple[int, ...] = Field(64, description="units of a layer; [1150, 1150, 400] of each")
    layers: int = Field(2, ge=1, description="recurrent layers; left out: 2, or as many as hidden lists")
    depth: int = _number("depth", "micro-steps of an rhn")
    experts: int = _number("experts", "softmaxes that are mixed; 1: an ordinary one")
    tied: bool = Field(False, description="the decoder uses the embedding's weights")
    embedding_std: float = _number(
        "embedding_std", "the embedding starts as N(0, std^2): 1 for characters, 0.06 for words"
    )
    dropout: float | dict[str, float] = Field(
        0.0, description="of the candidates; { input = 0.4, output = 0.4 }: variational ones by name"
    )
    dense_dropout: float | dict[str, float] = Field(
        0.1, description="of the dense reference: give it what suits it best"
    )

    _cell = field_validator("cell")(_known(LAYERS))
    _hidden = field_validator("hidden", mode="before")(
        _each("a whole number from 1, or several", lambda units: type(units) is int and units >= 1)
    )
    _dropout = field_validator("dropout", "dense_dropout", mode="before")(
        _each("a probability from 0 to below 1, or several by name", lambda p: type(p) in (int, float) and 0 <= p < 1)
    )

    @model_validator(mode="before")
    @classmethod
    def _widths_are_counted(cls, values: Any) -> Any:
        hidden = values.get("hidden") if isinstance(values, dict) else None
        return {"layers": len(hidden)} | values if hidden and isinstance(hidden, list | tuple) else values

    @property
    def sizes(self) -> dict[str, Any]:
        """What a `LanguageModel` of the candidates is built from, its vocabulary apart."""
        return {name: value for name, value in values_of(self).items() if name != "dense_dropout"}

    @model_validator(mode="after")
    def _can_be_built(self) -> Self:
        for dropout in (self.dropout, self.dense_dropout):
            try:
                with torch.device("meta"):
                    LanguageModel(1, **self.sizes | {"dropout": dropout})
            except ValueError as error:
                raise ValueError(f"cannot be built: {error}") from None
        return self


class Training(Section):
    """How every network is trained (SGD with clipping, then averages)."""

    epochs: int = _number("epochs", "a full training")
    lr: float = _number("lr", "learning rate")
    lr_decay: float = _number("lr_decay", "factor on it in every epoch after lr_decay_after")
    lr_decay_after: int = _number("lr_decay_after", "epochs at the full learning rate")
    clip: float = _number("clip", "largest norm of the gradient")
    weight_decay: float = _number("weight_decay", "L2 penalty")
    batch: int = _number("batch", "columns read side by side")
    bptt: int = _number("bptt", "window of back-propagation, in tokens")
    bptt_deviation: float = _number("bptt_deviation", "of random window lengths (AWD-LSTM: 5); 0: all equal")
    bptt_longest: int = _number("bptt_longest", "bound on random lengths; 0: none")
    accumulate: int = _number("accumulate", "parts of a batch, one after the other: less memory")
    activation_penalty: float = _number("activation_penalty", "on the squares of activations (AR; AWD-LSTM: 2)")
    temporal_penalty: float = _number("temporal_penalty", "on the squares of their changes (TAR; AWD-LSTM: 1)")
    average_from: float = _number("average_from", "fraction of the epochs after which weights are averaged; 1 never")
    non_monotone: int = _number(
        "non_monotone", "or once the validation loss is worse than more than n epochs ago (NT-ASGD: 5); 0: not"
    )
    finetune_from: float = _number(
        "finetune_from", "fraction of the epochs after which the best weights are trained on; 1 never"
    )
    finetune_lr: float = _number("finetune_lr", "factor on lr from there on")
    seed: int = _number("seed", "of weights, masks, dropout and suggestions")
    threads: int = _number("threads", "of torch; results repeat bit for bit at the same number")
    device: str = Field("auto", description='"cpu", "cuda", "cuda:1"; "auto": cuda where there is one')
    precision: str = Field("float32", description=f"of products while training: {', '.join(CHOICES['precision'])}")

    _precision = field_validator("precision")(_known(CHOICES["precision"]))

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        values = values_of(self)
        LanguageModelling(**{name: values.pop(name) for name in OF_THE_TASK})
        TrainConfig(**values)
        return self


# what of [training] is the task's to know
OF_THE_TASK = (
    "batch",
    "bptt",
    "bptt_deviation",
    "bptt_longest",
    "accumulate",
    "activation_penalty",
    "temporal_penalty",
)


class Pruning(Section):
    """How much is pruned."""

    sparsity: float = Field(0.8, ge=0, lt=1, description="fraction of zero weights over what is pruned, exact")
    scope: Literal["all", "recurrent"] = Field("all", description='what is pruned: "all" matrices, or "recurrent" ones')
    counts: Literal["weights", "multiply_adds"] = Field(
        "weights", description='what sparsity counts; "multiply_adds" leaves the embedding dense'
    )
    updates_per_epoch: int = _number(
        "updates_per_epoch", "mask updates in an epoch; 0 keeps each method's own interval"
    )


class DropFraction(Section):
    """A range on a grid."""

    low: float = Field(0.3, gt=0, lt=1)
    high: float = Field(0.8, gt=0, lt=1)
    step: float = Field(0.1, gt=0, lt=1)

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.high < self.low:
            raise ValueError(f"goes from low to high, and {self.low} is above {self.high}: exchange them")
        steps = (self.high - self.low) / self.step
        if abs(steps - round(steps)) > 1e-6:
            raise ValueError(
                f"is a whole number of steps wide, and {self.step} does not divide it: change step or high"
            )
        return self


# What the demo searches; of every other component a space has the default of `Method`.
SEARCHED: dict[str, tuple[str, ...]] = {
    "allocation": ("uniform", "er"),
    "drop_scope": ("tensor", "sign", "global"),
    "grow": ("random", "gradient"),
    "redistribute": ("none", "nonzeros", "magnitude"),
}


def _components() -> dict[str, Any]:
    """A field of [space] for each component of a method."""
    usual = to_config(Method())
    return {
        part: (
            Annotated[tuple[str, ...], AfterValidator(_known(choices))],
            Field(SEARCHED.get(part, (str(usual[part]),)), min_length=1, description=f"of {', '.join(choices)}"),
        )
        for part, choices in COMPONENTS.items()
    }


class SpaceSection(create_model("Components", __base__=Section, **_components())):  # type: ignore[misc]
    """What a candidate may be: the choices of each component, or whole methods by name."""

    drop_fraction: DropFraction = Field(DropFraction(), description="share of the active weights replaced in an update")
    method: tuple[str, ...] = Field(
        (), description="if any, candidates are these and nothing else counts; see docs/methods.md"
    )

    _method = field_validator("method")(_known(METHODS))

    def space(self) -> SearchSpace:
        """The space with its objects: what has one choice, the usual one, is no dimension of it."""
        if self.method:
            return SearchSpace({"method": self.method})
        usual, fraction = to_config(Method()), self.drop_fraction
        chosen = {part: getattr(self, part) for part in COMPONENTS}
        searched = {part: choices for part, choices in chosen.items() if choices != (usual[part],)}
        return SearchSpace(searched | {"drop_fraction": FloatRange(fraction.low, fraction.high, fraction.step)})


class Search(Section):
    """Whom the judges see, and when."""

    pool: int = Field(12, description="candidates")
    generation: int = Field(6, ge=1, description="candidates asked of the sampler at a time")
    sampler: str = Field("tpe", description=f"one of {', '.join(SAMPLERS)}")
    rungs: tuple[int, ...] = Field((2, 3), description="epochs after which the judges look")
    keep: tuple[int, ...] = Field((5, 2), description="candidates that go on after each")
    objectives: tuple[str, ...] = Field(
        ("ls", "loss", "rank_sum"), min_length=1, description="judges; the first one's choice is the result"
    )
    exhaustive: bool = Field(False, description="train the eliminated ones to the end too, to see what was missed")

    _sampler = field_validator("sampler")(_known(SAMPLERS))
    _objectives = field_validator("objectives")(_known(OBJECTIVES))


class Spectrum(Section):
    """How spectra are taken and compared."""

    state: Literal["h", "full"] = Field("h", description='"h", or "full" for the (h, c) of an LSTM')
    warmup: int = Field(20, ge=0, description="tokens before the measurement")
    steps: int = Field(60, ge=1, description="tokens measured")
    sequences: int = Field(4, ge=1, description="windows of the validation text, averaged")
    distance: str = Field("l2", description=f"one of {', '.join(DISTANCES)}")

    _distance = field_validator("distance")(_known(DISTANCES))


def values_of(section: BaseModel) -> dict[str, Any]:
    """A section's settings by name."""
    return {name: getattr(section, name) for name in type(section).model_fields}
