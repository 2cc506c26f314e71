"""Parameter counts of the published networks, on the meta device, which allocates no memory."""

import pytest
import torch

from hyperpruning.models.language_model import LanguageModel

AWD_DROPOUT = {"embedding": 0.1, "input": 0.4, "hidden": 0.25, "weight": 0.5, "output": 0.4}
PTB, WIKITEXT2 = 10_000, 33_278
PUBLISHED = {
    # Zaremba et al. 2014, large; Liu et al. 2021
    "stacked LSTM": (66_034_000, PTB, {"embedding": 1500, "hidden": 1500, "dropout": 0.65}),
    # Zilly et al. 2017, tied; published as 23.5M
    "RHN": (
        23_482_400,
        PTB,
        {"cell": "rhn", "embedding": 830, "hidden": 830, "layers": 1, "depth": 10, "tied": True},
    ),
    # Merity et al. 2018; published as 24M and 33M
    "AWD-LSTM PTB": (24_221_600, PTB, {"embedding": 400, "hidden": [1150, 1150, 400], "dropout": AWD_DROPOUT}),
    "AWD-LSTM WikiText-2": (
        33_556_078,
        WIKITEXT2,
        {"embedding": 400, "hidden": [1150, 1150, 400], "dropout": AWD_DROPOUT},
    ),
    # Yang et al. 2018; published as 22M and 35M; their code gives 21.5M and 34.9M
    "MoS PTB": (21_500_620, PTB, {"embedding": 280, "hidden": [960, 960, 620], "dropout": AWD_DROPOUT, "experts": 15}),
    "MoS WikiText-2": (
        34_909_528,
        WIKITEXT2,
        {"embedding": 300, "hidden": [1150, 1150, 650], "dropout": AWD_DROPOUT, "experts": 15},
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name):
    count, vocabulary, sizes = PUBLISHED[name]
    with torch.device("meta"):
        model = LanguageModel(vocabulary, **{"tied": name != "stacked LSTM"} | sizes)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert all(parameter.is_meta for parameter in model.parameters())
