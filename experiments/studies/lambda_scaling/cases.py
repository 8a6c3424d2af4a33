"""The grids of networks that the study trains, by part."""

from typing import NamedTuple

import numpy as np

from experiments.studies.lambda_scaling.config import Config
from experiments.studies.lambda_scaling.networks import Network, Schedule

__all__ = [
    "LONG",
    "PAPER_STRENGTHS",
    "WIDE_STRENGTHS",
    "Case",
    "make_cases",
    "other_layers",
]

PAPER_STRENGTHS = np.array([m * 10.0**k for k in range(-5, -1) for m in (1, 2, 4, 8)])[
    :14
]
"""The thesis's strengths: {1, 2, 4, 8} times powers of ten in [1e-5, 0.02]."""

WIDE_STRENGTHS = np.geomspace(1e-5, 1.0, 21)
"""Four a decade, wide enough for every optimum of a converged network."""


LONG = 10
"""Times the epochs of the protocol, for the part "long"."""


class Case(NamedTuple):
    """One network, trained for every strength, size and seed.

    Attributes:
      name: what the record calls it.
      part: the part of the study that it belongs to.
      network: the network.
      schedule: its training.
      strengths: regularisation strengths.
      sizes: numbers of examples.
      seeds: number of seeds.
    """

    name: str
    part: str
    network: Network
    schedule: Schedule
    strengths: np.ndarray
    sizes: tuple[int, ...]
    seeds: int


def make_cases(config: Config) -> list[Case]:
    """Returns the grids of the configured parts, in the order they are run."""
    makers = {
        "readings": _readings,
        "protocol": _protocol,
        "heads": _heads,
        "converged": _converged,
        "long": _long,
        "fixed": lambda config: [],
    }
    unknown = [part for part in config.parts if part not in makers]
    if unknown:
        raise ValueError(f"unknown parts {unknown}; there are {list(makers)}.")
    return [case for part in config.parts for case in makers[part](config)]


def other_layers(config: Config) -> list[str]:
    """Returns "activation/divisor" of the networks trained beside the first."""
    layers = ["/".join(x.split("/")[:2]) for x in config.converged_networks]
    return [x for x in dict.fromkeys(layers) if x != layers[0]]


def _paper(config, name, part, network, seeds, sizes=None) -> Case:
    schedule = Schedule(
        "sgd", config.learning_rate, config.epochs, config.num_validation
    )
    sizes = sizes or config.sizes
    return Case(name, part, network, schedule, PAPER_STRENGTHS, sizes, seeds)


def _readings(config: Config) -> list[Case]:
    networks = {f"reading/{x}": Network(x) for x in config.readings}
    for x in config.scaled_readings:
        for scale in config.variance_scales:
            if scale != 1:
                networks[f"reading/{x} {scale:g}"] = Network(x, scale)
    return [
        _paper(config, name, "readings", network, config.reading_seeds)
        for name, network in networks.items()
    ]


def _protocol(config: Config) -> list[Case]:
    """The thesis's figures."""
    plain = Network(config.reading)
    cases = {
        "first": (plain, config.first_sizes),
        "l1": (plain._replace(penalty="l1"), config.sizes),
    }
    for scale in config.variance_scales:
        cases[f"scale {scale:g}"] = plain._replace(variance_scale=scale), config.sizes
    return [
        _paper(config, f"protocol/{name}", "protocol", network, config.seeds, sizes)
        for name, (network, sizes) in cases.items()
    ]


def _heads(config: Config) -> list[Case]:
    """Solved heads in place of the random ones of "protocol", at each scale."""
    return [
        _paper(
            config,
            f"heads/{head} {scale:g}",
            "heads",
            Network(config.reading, scale, head=head),
            config.head_seeds,
        )
        for head in config.heads
        for scale in config.variance_scales
    ]


def _long(config: Config) -> list[Case]:
    """The largest initial variance with many times the epochs, as the thesis asks."""
    scale = max(config.variance_scales)
    network = Network(config.reading, scale)
    name = f"long/scale {scale:g}"
    case = _paper(config, name, "long", network, config.head_seeds)
    longer = case.schedule._replace(epochs=LONG * config.epochs)
    return [case._replace(schedule=longer)]


def _converged(config: Config) -> list[Case]:
    def case(name, network, epochs, seeds):
        schedule = Schedule(
            "adam", config.converged_rate, epochs, config.num_validation
        )
        return Case(
            f"converged/{name}",
            "converged",
            network,
            schedule,
            WIDE_STRENGTHS,
            config.converged_sizes,
            seeds,
        )

    first, epochs = config.converged_networks[0], config.converged_epochs
    cases = [
        case(x, Network(x), epochs, config.converged_seeds)
        for x in config.converged_networks
    ]
    cases += [
        case(f"ratio {r:g}", Network(first, ratio=r), epochs, config.reading_seeds)
        for r in config.ratios
    ]
    longer = config.longer * epochs
    return [*cases, case("longer", Network(first), longer, config.reading_seeds)]
