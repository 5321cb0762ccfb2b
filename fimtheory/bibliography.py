"""The works that rules and theorems refer to, by key."""

from __future__ import annotations

__all__ = ["BIBLIOGRAPHY"]

BIBLIOGRAPHY: dict[str, str] = {
    "fimtheory": "fimtheory developers. fimtheory: bounds on the input-space Fisher information of classifiers. "
    "Proof in the docstring of the rule.",
    "zhang2026": "Zhang, Li, Wang, Wang and Jin. Measuring model robustness via Fisher information: spectral bounds, "
    "theoretical guarantees, and practical algorithms. arXiv:2606.04767, 2026.",
    "horn2013": "R. A. Horn and C. R. Johnson. Matrix Analysis. Cambridge University Press, 2nd edition, 2013.",
    "popoviciu1935": "T. Popoviciu. Sur les équations algébriques ayant toutes leurs racines réelles. "
    "Mathematica 9, 129-145, 1935.",
    "nair2025": "P. Nair. Softmax is 1/2-Lipschitz. arXiv:2510.23012, 2025.",
    "gouk2021": "H. Gouk, E. Frank, B. Pfahringer and M. J. Cree. Regularisation of neural networks by enforcing "
    "Lipschitz continuity. Machine Learning 110, 393-416, 2021. arXiv:1804.04368.",
    "sedghi2019": "H. Sedghi, V. Gupta and P. M. Long. The singular values of convolutional layers. ICLR 2019. "
    "arXiv:1805.10408.",
    "tsuzuku2018": "Y. Tsuzuku, I. Sato and M. Sugiyama. Lipschitz-margin training: scalable certification of "
    "perturbation invariance for deep neural networks. NeurIPS 2018. arXiv:1802.04034.",
    "hendrycks2016": "D. Hendrycks and K. Gimpel. Gaussian error linear units (GELUs). arXiv:1606.08415, 2016.",
    "klambauer2017": "G. Klambauer, T. Unterthiner, A. Mayr and S. Hochreiter. Self-normalizing neural networks. "
    "NeurIPS 2017. arXiv:1706.02515.",
    "ba2016": "J. L. Ba, J. R. Kiros and G. E. Hinton. Layer normalization. arXiv:1607.06450, 2016.",
    "ioffe2015": "S. Ioffe and C. Szegedy. Batch normalization: accelerating deep network training by reducing "
    "internal covariate shift. ICML 2015. arXiv:1502.03167.",
    "kim2021": "H. Kim, G. Papamakarios and A. Mnih. The Lipschitz constant of self-attention. ICML 2021. "
    "arXiv:2006.04710.",
    "castin2024": "V. Castin, P. Ablin and G. Peyré. How smooth is attention? ICML 2024. arXiv:2312.14820.",
    "poole2016": "B. Poole, S. Lahiri, M. Raghu, J. Sohl-Dickstein and S. Ganguli. Exponential expressivity in deep "
    "neural networks through transient chaos. NeurIPS 2016. arXiv:1606.05340.",
    "hanin2020": "B. Hanin and M. Nica. Products of many large random matrices and gradients in deep neural networks. "
    "Communications in Mathematical Physics 376, 287-322, 2020. arXiv:1812.05994.",
    "rump2006": "S. M. Rump. Verification of positive definiteness. BIT Numerical Mathematics 46, 433-452, 2006.",
    "torch": "A. Paszke et al. PyTorch: an imperative style, high-performance deep learning library. NeurIPS 2019. "
    "arXiv:1912.01703.",
}
