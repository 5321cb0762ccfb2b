"""The operators that the derivations of attention speak of: they exist, and make up the Jacobian of attention."""

import torch

HEADS, TOKENS, DIM, WIDTH = 2, 4, 3, 2


def dense(linear, *shape):
    """Return the matrix of a linear map of tensors of this shape."""
    size = torch.Size(shape).numel()
    return torch.stack([linear(each.reshape(shape)).flatten() for each in torch.eye(size).double()], 1)


def test_the_operators_of_attention_make_up_its_jacobian():
    generator = torch.Generator().manual_seed(0)
    normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    x, query, key, value = normal(TOKENS, DIM), *normal(3, HEADS, WIDTH, DIM)
    bias, out, t = normal(HEADS, 1, WIDTH), normal(DIM, HEADS, WIDTH), normal(HEADS).exp()

    def attention(x):
        heads = torch.nn.functional.scaled_dot_product_attention(x @ query.mT + bias, x @ key.mT, x @ value.mT)
        return torch.einsum("dhv,hnv->nd", out, heads)

    jacobian = torch.func.jacrev(attention)(x).reshape(TOKENS * DIM, TOKENS * DIM)
    form, b = key.mT @ query / WIDTH**0.5, (x @ query.mT + bias) @ key / WIDTH**0.5
    P = (b @ x.T).softmax(2)
    root, size = P.sqrt(), torch.linalg.matrix_norm(value, 2)
    pairs, rows, tokens = (HEADS, TOKENS, TOKENS), (HEADS, TOKENS, DIM), (TOKENS, DIM)

    A = dense(lambda d: torch.einsum("h,hab,ib->hia", t, form, d), *tokens)
    U = dense(lambda v: torch.einsum("dhv,hva,h,hia->id", out, value, 1 / t, v), *rows)
    mix = dense(lambda v: torch.einsum("dhv,hiv->id", out, v), HEADS, TOKENS, WIDTH)
    G = dense(lambda v: root[..., None] * v[:, :, None], *rows)
    s = dense(lambda v: root * v[:, :, None], HEADS, TOKENS)
    X = dense(lambda y: torch.einsum("jd,hijd->hij", x, y), *pairs, DIM)
    Y = (torch.eye(len(s)) - s @ s.T) @ X @ G
    spread = dense(lambda v: root * torch.einsum("hijd,hid->hij", x - (P @ x)[:, :, None], v), *rows)
    torch.testing.assert_close(Y, spread)
    covariances = [p.T @ p for p in root.flatten(0, 1)[..., None] * (x - (P @ x).flatten(0, 1)[:, None])]
    torch.testing.assert_close(Y.T @ Y, torch.block_diag(*covariances))
    for each in (G, s):
        torch.testing.assert_close(each.T @ each, torch.eye(each.shape[1]).double())

    B = dense(lambda y: y[..., None] * b[:, :, None], *pairs)
    H = dense(lambda d: size[:, None, None, None] * root[..., None] * d, *tokens)
    V = dense(lambda v: torch.einsum("hvd,hid->hiv", value / size[:, None, None], v), *rows)
    torch.testing.assert_close(G.T @ B, dense(lambda v: v[..., None] * b, HEADS, TOKENS) @ s.T)
    columns = torch.einsum("h,hij->j", size**2, P)
    torch.testing.assert_close(H.T @ H, columns.repeat_interleave(DIM).diag())
    torch.testing.assert_close(jacobian, U @ Y.T @ Y @ A + mix @ V @ (G + B @ Y).T @ H)

    V = dense(lambda d: torch.einsum("hvd,jd->hjv", value, d), *tokens)
    Q = dense(lambda v: root[..., None] * v[:, :, None], HEADS, TOKENS, WIDTH)
    H = dense(lambda v: root[..., None] * v[:, None], HEADS, TOKENS, WIDTH)
    E = dense(lambda d: d.expand(TOKENS, TOKENS, DIM), *tokens)
    B = dense(lambda y: torch.einsum("hij,h,hid->ijd", y, t, b), *pairs)
    L = dense(lambda f: root * (f - (P * f).sum(2, keepdim=True)), *pairs)
    torch.testing.assert_close(L.T @ L, torch.block_diag(*(p.diag() - p.outer(p) for p in P.flatten(0, 1))))
    torch.testing.assert_close(H.T @ H, P.sum(1).flatten().repeat_interleave(WIDTH).diag())
    torch.testing.assert_close(E.T @ E, TOKENS * torch.eye(TOKENS * DIM).double())
    torch.testing.assert_close(jacobian, U @ Y.T @ Y @ A + mix @ Q.T @ H @ V + U @ Y.T @ L @ B.T @ E)
