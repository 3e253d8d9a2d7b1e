"""The terms themselves: against float64 definitions, at the edges of the number range, and compiled."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from kdcore.losses import functional

from . import naive

DIVERGENCES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "kl": (functional.kl, naive.kl),
    "reverse_kl": (functional.reverse_kl, naive.reverse_kl),
    "jsd": (functional.jsd, naive.jsd),
    "jsd-0.1": (partial(functional.jsd, beta=0.1), partial(naive.jsd, beta=0.1)),
    "jsd-0.99": (partial(functional.jsd, beta=0.99), partial(naive.jsd, beta=0.99)),
    "tvd": (functional.tvd, naive.tvd),
}
DISTANCES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "squared_error": (functional.squared_error, naive.squared_error),
    "smooth_l1": (functional.smooth_l1, naive.smooth_l1),
    "smooth_l1-2.5": (partial(functional.smooth_l1, beta=2.5), partial(naive.smooth_l1, beta=2.5)),
    "l1": (partial(functional.smooth_l1, beta=0.0), partial(naive.smooth_l1, beta=0.0)),
    "cosine_distance": (functional.cosine_distance, naive.cosine_distance),
}
PAIRED = {**DIVERGENCES, **DISTANCES}
divergences = pytest.mark.parametrize(("ours", "exact"), DIVERGENCES.values(), ids=DIVERGENCES.keys())
paired = pytest.mark.parametrize(("ours", "exact"), PAIRED.values(), ids=PAIRED.keys())


def value_and_gradient(terms: Callable[[Tensor], Tensor], student: Tensor) -> tuple[Tensor, Tensor]:
    leaf = student.clone().requires_grad_()
    values = terms(leaf)
    values.sum().backward()
    assert leaf.grad is not None
    return values.detach(), leaf.grad


@paired
@pytest.mark.parametrize(("shape", "axis"), [((6, 9), -1), ((3, 4, 9), -1), ((3, 9, 4, 2), 1), ((9, 3), 0)])
def test_terms_and_gradients_are_those_of_the_definition(ours, exact, shape: tuple[int, ...], axis: int):
    student, teacher = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)) * 3
    value, gradient = value_and_gradient(lambda s: ours(s, teacher, axis=axis), student)
    true_value, true_gradient = value_and_gradient(lambda s: exact(s, teacher, axis=axis), student)
    assert value.dtype == torch.float32
    assert value.shape == torch.Size([n for i, n in enumerate(shape) if i != axis % len(shape)])
    torch.testing.assert_close(value.double(), true_value, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(gradient.double(), true_gradient.double(), rtol=1e-5, atol=1e-6)


@divergences
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_the_temperature_divides_both_logits(ours, exact, student: Tensor, teacher: Tensor, temperature: float):
    value, gradient = value_and_gradient(lambda s: ours(s, teacher, temperature=temperature), student)
    truth, true_gradient = value_and_gradient(lambda s: exact(s, teacher, temperature=temperature), student)
    torch.testing.assert_close(value.double(), truth, rtol=1e-5, atol=2e-7)
    torch.testing.assert_close(gradient.double(), true_gradient.double(), rtol=1e-5, atol=4e-6)
    as_tensor = ours(student, teacher, temperature=torch.tensor(temperature))
    torch.testing.assert_close(as_tensor, value, rtol=1e-6, atol=1e-7)


@paired
def test_float64_stays_float64_with_exact_gradients_for_both_sides(ours, exact):
    student, teacher = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    assert ours(student, teacher).dtype == torch.float64
    torch.testing.assert_close(ours(student, teacher), exact(student, teacher), rtol=1e-12, atol=1e-14)
    assert torch.autograd.gradcheck(ours, (student.requires_grad_(), teacher.requires_grad_()))


@paired
def test_a_teacher_without_a_graph_adds_nothing_to_it(ours, exact, student: Tensor, teacher: Tensor):
    assert not ours(student, teacher).requires_grad
    assert ours(student.requires_grad_(), teacher).requires_grad
    assert not teacher.requires_grad


@paired
def test_nothing_where_both_are_equal(ours, exact, teacher: Tensor):
    value, gradient = value_and_gradient(lambda s: ours(s, teacher), teacher)
    assert value.abs().max().item() <= 3e-7
    assert gradient.abs().max().item() <= 3e-7


@divergences
def test_equal_nets_give_exactly_zero(ours, exact, teacher: Tensor):
    assert not ours(teacher, teacher.clone()).any()
    assert not ours(1e4 * teacher, 1e4 * teacher).any()


@divergences
def test_a_small_difference_is_not_lost_in_rounding(ours, exact, teacher: Tensor):
    student = teacher + 1e-2 * torch.sin(torch.arange(7.0))
    _, gradient = value_and_gradient(lambda s: ours(s, teacher), student)
    _, truth = value_and_gradient(lambda s: exact(s, teacher), student)
    assert ((gradient - truth).norm() / truth.norm()).item() < 5e-5


@pytest.mark.parametrize("beta", [0.01, 0.5, 0.99])
def test_jsd_of_nearly_equal_nets_keeps_its_digits(teacher: Tensor, beta: float):
    student = teacher + 1e-3 * torch.sin(torch.arange(7.0))
    value = functional.jsd(student, teacher, beta=beta).double()
    truth = naive.jsd(student, teacher, beta=beta)  # near 1e-8: below float32's rounding of the logarithms
    torch.testing.assert_close(value, truth, rtol=1e-3, atol=0)


EXCLUDED = torch.tensor([False, True, False, False, True, False, False])


@divergences
def test_classes_that_both_exclude_might_as_well_not_exist(ours, exact, student: Tensor, teacher: Tensor):
    masked_teacher = teacher.masked_fill(EXCLUDED, -math.inf)
    value, gradient = value_and_gradient(lambda s: ours(s, masked_teacher), student.masked_fill(EXCLUDED, -math.inf))
    fewer, smaller = value_and_gradient(lambda s: ours(s, teacher[..., ~EXCLUDED]), student[..., ~EXCLUDED])
    torch.testing.assert_close(value, fewer)
    torch.testing.assert_close(gradient[..., ~EXCLUDED], smaller)
    assert not gradient[..., EXCLUDED].any()


@divergences
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_excluded_classes_leave_a_live_teacher_finite_too(
    ours, exact, student: Tensor, teacher: Tensor, temperature: float
):
    live = teacher.masked_fill(EXCLUDED, -math.inf).requires_grad_()
    ours(student.masked_fill(EXCLUDED, -math.inf), live, temperature=temperature).sum().backward()
    assert live.grad is not None
    assert live.grad.isfinite().all()
    assert not live.grad[..., EXCLUDED].any()


@pytest.mark.parametrize(
    ("name", "bound"), [("kl", math.inf), ("jsd", math.log(2)), ("tvd", 1.0)], ids=["kl", "jsd", "tvd"]
)
def test_classes_that_only_the_teacher_excludes_are_pushed_down(
    name: str, bound: float, student: Tensor, teacher: Tensor
):
    ours, _ = DIVERGENCES[name]
    value, gradient = value_and_gradient(lambda s: ours(s, teacher.masked_fill(EXCLUDED, -math.inf)), student)
    assert value.isfinite().all()
    assert value.max().item() <= bound
    assert gradient.isfinite().all()
    assert (gradient[..., EXCLUDED] > 0).all()


def test_kl_is_infinite_where_the_student_excludes_what_the_teacher_says(student: Tensor, teacher: Tensor):
    masked = student.masked_fill(EXCLUDED, -math.inf)
    assert functional.kl(masked, teacher).isposinf().all()
    assert functional.reverse_kl(masked, teacher).isfinite().all()
    assert functional.jsd(masked, teacher).isfinite().all()


@pytest.mark.parametrize("beta", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("scale", [1.0, 50.0, 1e4])
def test_jsd_stays_between_zero_and_the_entropy_of_beta(student: Tensor, teacher: Tensor, beta: float, scale: float):
    entropy = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)
    value, gradient = value_and_gradient(lambda s: functional.jsd(s, scale * teacher, beta=beta), scale * student)
    assert value.min().item() >= -1e-7
    assert value.max().item() <= entropy + 1e-6
    assert gradient.isfinite().all()


def test_jsd_of_nets_without_a_common_class_is_the_entropy_of_beta():
    a, b = torch.tensor([[0.0, -math.inf]]), torch.tensor([[-math.inf, 0.0]])
    assert functional.jsd(a, b).item() == pytest.approx(math.log(2))
    assert functional.tvd(a, b).item() == 1.0


def test_jsd_with_half_is_symmetric_and_otherwise_swaps_beta(student: Tensor, teacher: Tensor):
    torch.testing.assert_close(functional.jsd(student, teacher), functional.jsd(teacher, student))
    torch.testing.assert_close(functional.jsd(student, teacher, beta=0.2), functional.jsd(teacher, student, beta=0.8))
    assert not torch.allclose(
        functional.jsd(student, teacher, beta=0.2), functional.jsd(student, teacher, beta=0.8), rtol=1e-2
    )


@pytest.mark.parametrize("beta", [1e-4, 1 - 1e-4])
def test_jsd_near_its_ends_is_a_kl(student: Tensor, teacher: Tensor, beta: float):
    s, t = student.double(), teacher.double()
    scaled = functional.jsd(s, t, beta=beta) / (beta * (1 - beta))
    limit = functional.kl(s, t) if beta < 0.5 else functional.reverse_kl(s, t)
    torch.testing.assert_close(scaled, limit, rtol=2e-2, atol=0)


def test_bounded_divergences_know_a_hand_computed_pair():
    # p = (3/4, 1/4), q = (1/2, 1/2)
    teacher, student = torch.tensor([3.0, 1.0]).log(), torch.zeros(2)
    assert functional.kl(student, teacher).item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert functional.reverse_kl(student, teacher).item() == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2))
    assert functional.tvd(student, teacher).item() == pytest.approx(0.25)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("axis", [-1, 1])
def test_cross_entropy_of_integer_and_soft_labels(student: Tensor, labels: Tensor, smoothing: float, axis: int):
    logits, labels = student.movedim(-1, axis), labels.clamp(min=0)
    truth, true_gradient = value_and_gradient(
        lambda s: naive.cross_entropy(s, labels, axis=axis, label_smoothing=smoothing), logits
    )
    soft = torch.nn.functional.one_hot(labels, 7).movedim(-1, axis).float()
    for target in (labels, labels.int(), soft, soft.bfloat16()):
        value, gradient = value_and_gradient(
            lambda s, y=target: functional.cross_entropy(s, y, axis=axis, label_smoothing=smoothing), logits
        )
        torch.testing.assert_close(value.double(), truth, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(gradient.double(), true_gradient.double(), rtol=1e-5, atol=1e-6)


def test_cross_entropy_of_mixed_labels(student: Tensor):
    mixed = torch.softmax(torch.randn(4, 5, 7, generator=torch.Generator().manual_seed(7)), -1)
    torch.testing.assert_close(
        functional.cross_entropy(student, mixed).double(), naive.cross_entropy(student, mixed), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_position_without_label_is_zero_with_a_gradient_of_zero(student: Tensor, labels: Tensor, smoothing: float):
    value, gradient = value_and_gradient(
        lambda s: functional.cross_entropy(s, labels, label_smoothing=smoothing), student
    )
    assert torch.equal(value == 0.0, labels == -100)
    assert torch.equal((gradient == 0.0).all(-1), labels == -100)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("soft", [False, True])
def test_cross_entropy_ignores_excluded_classes(student: Tensor, smoothing: float, soft: bool):
    kept = torch.arange(7)[~EXCLUDED]
    labels = torch.randint(0, 5, (4, 5), generator=torch.Generator().manual_seed(8))
    target, fewer_target = kept[labels], labels
    if soft:
        target = torch.nn.functional.one_hot(target, 7).float()
        fewer_target = torch.nn.functional.one_hot(labels, 5).float()
    value, gradient = value_and_gradient(
        lambda s: functional.cross_entropy(s, target, label_smoothing=smoothing),
        student.masked_fill(EXCLUDED, -math.inf),
    )
    fewer, smaller = value_and_gradient(
        lambda s: functional.cross_entropy(s, fewer_target, label_smoothing=smoothing), student[..., kept]
    )
    torch.testing.assert_close(value, fewer)
    torch.testing.assert_close(gradient[..., kept], smaller)
    assert not gradient[..., EXCLUDED].any()


@pytest.mark.parametrize("label", [-1, 7])
def test_a_label_that_is_no_class_is_not_taken_for_one(student: Tensor, labels: Tensor, label: int):
    labels[2, 2] = label
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        functional.cross_entropy(student, labels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(4, dtype=torch.long), r"integer labels have shape \(4,\).* \(4, 5, 7\) .* axis -1 take \(4, 5\)"),
        (torch.zeros(4, 5, 7, dtype=torch.long), r"integer labels have shape \(4, 5, 7\).* take \(4, 5\)"),
        (torch.zeros(4, 5), r"soft labels have shape \(4, 5\).* take \(4, 5, 7\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused_with_both_shapes(student: Tensor, labels: Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        functional.cross_entropy(student, labels)


def test_cosine_distance_knows_angles_and_not_lengths():
    east, north = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 5.0]])
    for other, distance in ((3 * east, 0.0), (north, 1.0), (-east, 2.0), (east + 0.4 * north, 1 - math.sqrt(0.5))):
        assert functional.cosine_distance(east, other).item() == pytest.approx(distance, abs=1e-7)


def test_a_vector_without_direction_is_at_one_and_is_not_pushed():
    student, teacher = torch.zeros(2, 3), torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    value, gradient = value_and_gradient(lambda s: functional.cosine_distance(s, teacher), student)
    assert value.tolist() == [1.0, 1.0]
    assert not gradient.any()


def test_smooth_l1_turns_at_beta():
    student, teacher = torch.tensor([[0.5], [2.0], [4.0]]), torch.zeros(3, 1)
    assert functional.smooth_l1(student, teacher, beta=2.0).tolist() == [0.0625, 1.0, 3.0]


def test_hide_zeroes_only_what_the_mask_leaves_out(student: Tensor, mask: Tensor):
    hidden = functional.hide(student, mask)
    assert torch.equal(hidden[mask], student[mask])
    assert not hidden[~mask].any()
    across = functional.hide(student.movedim(-1, 1), mask, 1)
    assert torch.equal(across.movedim(1, -1), hidden)


def test_hide_leaves_a_signal_alone_where_there_is_nothing_to_do(student: Tensor):
    assert functional.hide(student, None) is student
    assert functional.hide(student, torch.zeros(4, dtype=torch.bool)) is student


@paired
def test_different_shapes_are_refused_with_both(ours, exact, student: Tensor):
    with pytest.raises(ValueError, match=r"student's signal has shape \(4, 5, 7\), the teacher's \(4, 1, 7\)"):
        ours(student, torch.zeros(4, 1, 7))


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [1.0, torch.tensor(4.0)], ids=["one", "tensor"])
def test_kl_compiled_by_inductor_is_the_same(student: Tensor, teacher: Tensor, temperature: float | Tensor):
    torch.compiler.reset()
    compiled = torch.compile(functional.kl, fullgraph=True)
    value, gradient = value_and_gradient(lambda s: compiled(s, teacher, temperature=temperature), student)
    eager, eager_gradient = value_and_gradient(lambda s: functional.kl(s, teacher, temperature=temperature), student)
    torch.testing.assert_close(value, eager, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, eager_gradient, rtol=1e-5, atol=1e-6)
