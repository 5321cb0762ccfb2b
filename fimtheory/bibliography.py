"""The works that rules and theorems refer to, by key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

__all__ = ["BIBLIOGRAPHY", "Work"]


@final
@dataclass(frozen=True, slots=True)
class Work:
    """One entry: ``authors`` as printed, ``venue`` with volume and pages, ``arxiv`` the identifier alone."""

    authors: str
    title: str
    venue: str
    year: int
    arxiv: str = ""

    def __str__(self) -> str:
        where = f"{self.venue}, {self.year}." if self.venue else f"{self.year}."
        title = self.title if self.title.endswith("?") else f"{self.title}."
        return f"{self.authors.removesuffix('.')}. {title} {where}" + (f" arXiv:{self.arxiv}." if self.arxiv else "")


BIBLIOGRAPHY: dict[str, Work] = {
    "ba2016": Work("J. L. Ba, J. R. Kiros and G. E. Hinton", "Layer normalization", "", 2016, "1607.06450"),
    "castin2024": Work("V. Castin, P. Ablin and G. Peyré", "How smooth is attention?", "ICML", 2024, "2312.14820"),
    "combettes2020": Work(
        "P. L. Combettes and J.-C. Pesquet",
        "Lipschitz certificates for layered network structures driven by averaged activation operators",
        "SIAM J. Math. Data Sci. 2, 529-557",
        2020,
        "1903.01014",
    ),
    "dosovitskiy2021": Work(
        "A. Dosovitskiy et al.",
        "An image is worth 16x16 words: transformers for image recognition at scale",
        "ICLR",
        2021,
        "2010.11929",
    ),
    "fazlyab2019": Work(
        "M. Fazlyab, A. Robey, H. Hassani, M. Morari and G. J. Pappas",
        "Efficient and accurate estimation of Lipschitz constants for deep neural networks",
        "NeurIPS",
        2019,
        "1906.04893",
    ),
    "fimtheory": Work(
        "The fimtheory developers",
        "fimtheory: bounds on the input-space Fisher information of classifiers",
        "Proof in the docstring of the rule",
        2026,
    ),
    "gouk2021": Work(
        "H. Gouk, E. Frank, B. Pfahringer and M. J. Cree",
        "Regularisation of neural networks by enforcing Lipschitz continuity",
        "Machine Learning 110, 393–416",
        2021,
        "1804.04368",
    ),
    "hanin2020": Work(
        "B. Hanin and M. Nica",
        "Products of many large random matrices and gradients in deep neural networks",
        "Communications in Mathematical Physics 376, 287–322",
        2020,
        "1812.05994",
    ),
    "he2015": Work(
        "K. He, X. Zhang, S. Ren and J. Sun",
        "Delving deep into rectifiers: surpassing human-level performance on ImageNet classification",
        "ICCV",
        2015,
        "1502.01852",
    ),
    "hendrycks2016": Work("D. Hendrycks and K. Gimpel", "Gaussian error linear units (GELUs)", "", 2016, "1606.08415"),
    "horn2013": Work(
        "R. A. Horn and C. R. Johnson", "Matrix Analysis, 2nd edition", "Cambridge University Press", 2013
    ),
    "ioffe2015": Work(
        "S. Ioffe and C. Szegedy",
        "Batch normalization: accelerating deep network training by reducing internal covariate shift",
        "ICML",
        2015,
        "1502.03167",
    ),
    "kim2021": Work(
        "H. Kim, G. Papamakarios and A. Mnih", "The Lipschitz constant of self-attention", "ICML", 2021, "2006.04710"
    ),
    "klambauer2017": Work(
        "G. Klambauer, T. Unterthiner, A. Mayr and S. Hochreiter",
        "Self-normalizing neural networks",
        "NeurIPS",
        2017,
        "1706.02515",
    ),
    "krizhevsky2012": Work(
        "A. Krizhevsky, I. Sutskever and G. E. Hinton",
        "ImageNet classification with deep convolutional neural networks",
        "NeurIPS",
        2012,
    ),
    "nair2025": Work("P. Nair", "Softmax is 1/2-Lipschitz", "", 2025, "2510.23012"),
    "poole2016": Work(
        "B. Poole, S. Lahiri, M. Raghu, J. Sohl-Dickstein and S. Ganguli",
        "Exponential expressivity in deep neural networks through transient chaos",
        "NeurIPS",
        2016,
        "1606.05340",
    ),
    "popoviciu1935": Work(
        "T. Popoviciu",
        "Sur les équations algébriques ayant toutes leurs racines réelles",
        "Mathematica 9, 129–145",
        1935,
    ),
    "rump2006": Work(
        "S. M. Rump", "Verification of positive definiteness", "BIT Numerical Mathematics 46, 433–452", 2006
    ),
    "sedghi2019": Work(
        "H. Sedghi, V. Gupta and P. M. Long", "The singular values of convolutional layers", "ICLR", 2019, "1805.10408"
    ),
    "torch": Work(
        "A. Paszke et al.",
        "PyTorch: an imperative style, high-performance deep learning library",
        "NeurIPS",
        2019,
        "1912.01703",
    ),
    "tsuzuku2018": Work(
        "Y. Tsuzuku, I. Sato and M. Sugiyama",
        "Lipschitz-margin training: scalable certification of perturbation invariance for deep neural networks",
        "NeurIPS",
        2018,
        "1802.04034",
    ),
    "woo2023": Work(
        "S. Woo, S. Debnath, R. Hu, X. Chen, Z. Liu, I. S. Kweon and S. Xie",
        "ConvNeXt V2: co-designing and scaling ConvNets with masked autoencoders",
        "CVPR",
        2023,
        "2301.00808",
    ),
    "wu2018": Work("Y. Wu and K. He", "Group normalization", "ECCV", 2018, "1803.08494"),
    "zhang2019": Work(
        "B. Zhang and R. Sennrich", "Root mean square layer normalization", "NeurIPS", 2019, "1910.07467"
    ),
    "zhang2026": Work(
        "Zhang, Li, Wang, Wang and Jin",
        "Measuring model robustness via Fisher information: spectral bounds, theoretical guarantees, and practical "
        "algorithms",
        "",
        2026,
        "2606.04767",
    ),
}
"""Every work by key."""
