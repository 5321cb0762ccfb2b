"""A derivation as LaTeX: labels, symbols, expressions, proofs and tables, put together by chapters."""
