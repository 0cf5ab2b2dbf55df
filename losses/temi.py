"""The TEMI loss: an image and its neighbor share a cluster, the more so the surer a teacher is of them."""

import torch
from torch import Tensor, nn

MOMENTUM = 0.9  # of the running mean of the teacher's probabilities

Views = tuple[Tensor, Tensor]  # logits (H, B, K) of the images, and of a neighbor of each


def pair_weights(teacher_a: Tensor, teacher_b: Tensor) -> Tensor:
    """How surely the teacher puts both of a pair into one cluster (TEMI, arXiv:2303.17896): (B,) in [0, 1].

    Logits: (H, B, K), row i of both is one pair; t: their softmax. The mean over heads of
    sum_k t_k(a) t_k(b), without gradient. Raises ValueError if the shapes differ."""
    check_shapes(teacher_a, teacher_b)
    probs_a, probs_b = (each.detach().float().softmax(dim=-1) for each in (teacher_a, teacher_b))
    return (probs_a * probs_b).sum(dim=-1).mean(dim=0)


def temi_loss(students: Views, teachers: Views, marginal: Tensor, beta: float) -> Tensor:
    """The TEMI loss of each head (arXiv:2303.17896, its weighted multi-head form), in nats: (H,).

    Logits: (H, B, K), already divided by the temperature; s, t: the softmax of the students' and teachers'.
    marginal: (H, K), pi, the running mean of t. With l(a, b) = -log sum_k (s_k(a) t_k(b))^beta / pi_k, in
    which pi is not raised to beta, it is the mean over B of w (l(i, j) + l(j, i)) / 2; w: `pair_weights`, of
    all heads together. It may be negative. Gradients reach the students alone. Raises ValueError if the
    logits' shapes differ, or the marginal's does not fit."""
    check_shapes(*students, *teachers, marginal=marginal)
    log_s = [logits.float().log_softmax(dim=-1) for logits in students]  # (H, B, K) each
    log_t = [logits.detach().float().log_softmax(dim=-1) for logits in teachers]
    tiny = torch.finfo(torch.float32).tiny  # the mean of a cluster long empty rounds to 0
    log_pi = marginal.detach().float().clamp(min=tiny).log().unsqueeze(dim=1)  # (H, 1, K)
    crossed = zip(log_s, reversed(log_t), strict=True)  # the student of one view, the teacher of the other
    there, back = (-torch.logsumexp(beta * (s + t) - log_pi, dim=-1) for s, t in crossed)  # (H, B) each
    return (pair_weights(*teachers) * (there + back) / 2).mean(dim=1)


def check_shapes(*logits: Tensor, marginal: Tensor | None = None) -> None:
    shapes = [tuple(each.shape) for each in logits]
    if len(shapes[0]) != 3 or len(set(shapes)) > 1:
        raise ValueError(f"logits have shapes {', '.join(map(str, shapes))}, expected one shape (H, B, K)")
    heads, _, clusters = shapes[0]
    if marginal is not None and marginal.shape != (heads, clusters):
        found = f"the marginal has shape {tuple(marginal.shape)}"
        raise ValueError(f"{found}, expected {(heads, clusters)} for logits of shape {shapes[0]}")


class TEMILoss(nn.Module):
    def __init__(self, num_heads: int, num_clusters: int, beta: float = 0.6):
        super().__init__()
        self.beta = beta
        self.register_buffer("marginal", torch.full((num_heads, num_clusters), 1 / num_clusters))

    def forward(self, students: Views, teachers: Views) -> Tensor:
        """Move the marginal by this batch, then the loss; see `temi_loss`."""
        check_shapes(*students, *teachers, marginal=self.marginal)
        with torch.no_grad():
            means = [logits.float().softmax(dim=-1).mean(dim=1) for logits in teachers]  # (H, K) each
            self.marginal.lerp_((means[0] + means[1]) / 2, 1 - MOMENTUM)
        return temi_loss(students, teachers, self.marginal, self.beta)
