"""Distillation: its divergence and step against plain references, and what it achieves."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from neuropatch.data.batching import packed_batches
from neuropatch.data.tokenize import MaskedSample, Sample
from neuropatch.errors import DataError, ModelError, NeuropatchError, UsageError
from neuropatch.methods._base import Given, find_method
from neuropatch.methods._distil.config import DistilConfig
from neuropatch.methods._distil.course import make_course
from neuropatch.methods._distil.crops import with_crops
from neuropatch.methods._distil.divergence import Target, divergence
from neuropatch.methods._distil.lookalikes import Lookalikes
from neuropatch.methods._distil.others import teach_from_others
from neuropatch.methods._distil.sparsity import largest_changes
from neuropatch.methods._distil.student import Student
from neuropatch.methods._distil.targets import divergences, teach
from neuropatch.methods._edits import unit_edits
from neuropatch.methods._samples import behaviour_samples
from neuropatch.methods.contrast import contrast_of, find_units
from neuropatch.methods.distil import localize
from neuropatch.models.coordinates import MatrixId
from neuropatch.models.likelihood import packed_losses
from neuropatch.models.modules import model_layout
from neuropatch.patch.format import encode
from neuropatch.patch.metadata import PatchMetadata
from neuropatch.patch.patch import NeuronPatch

QUICK = DistilConfig(max_neurons=2, steps=3, batch_size=2, tokens=5, mixed=False)


def losses(model, corpus):
    with torch.no_grad():
        (batch,) = packed_batches(behaviour_samples(corpus), batch_tokens=10_000)
        return packed_losses(model, batch)


def test_the_divergence_is_that_of_the_merged_outcomes():
    rng = np.random.default_rng(0)
    teacher, student = torch.from_numpy(rng.normal(size=(2, 3, 8)) * 3)
    p, q = teacher.softmax(1), student.softmax(1)
    top = teacher.log_softmax(1).topk(3, dim=1)
    found = divergence(student, Target(top.indices, top.values))
    for row in range(3):
        chosen = top.indices[row]
        mine = torch.cat([p[row, chosen], 1 - p[row, chosen].sum()[None]])
        theirs = torch.cat([q[row, chosen], 1 - q[row, chosen].sum()[None]])
        assert found[row].item() == pytest.approx((mine * (mine / theirs).log()).sum().item())
    whole = (p * (p / q).log()).sum(1)
    assert (found < whole).all()
    every = teacher.log_softmax(1).topk(8, dim=1)
    assert torch.allclose(divergence(student, Target(every.indices, every.values)), whole)


def plain_divergence(logits, tokens, log_probs):
    """By torch's own gradients, in the precision of the logits."""
    mine = logits.log_softmax(1)
    told = (log_probs.exp() * (log_probs - mine.gather(1, tokens))).sum(1)
    if tokens.shape[1] == logits.shape[1]:
        return told
    rest = mine.scatter(1, tokens, -torch.inf).logsumexp(1)
    left = (1 - log_probs.exp().sum(1)).clamp(min=1e-7)
    return told + left * (left.log() - rest)


# Float32 keeps 6e-8 of each of a few roundings, and of the teacher's log probabilities; bfloat16
# rounds the gradient twice by 2e-3.
GRADIENT_TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 4e-3}


@pytest.mark.parametrize("dtype", list(GRADIENT_TOLERANCE))
@pytest.mark.parametrize(("shape", "tokens"), [((7, 50), 50), ((7, 50), 4), ((45, 50_000), 128)])
def test_divergence_and_gradient_are_those_of_float64(dtype, shape, tokens):
    """45 rows of 50,000 take several chunks, the last of them not full."""
    generator = torch.Generator().manual_seed(0)
    teacher = (5 * torch.randn(shape, generator=generator, dtype=torch.float64)).log_softmax(1)
    top = teacher.topk(tokens, dim=1)
    logits = (5 * torch.randn(shape, generator=generator)).to(dtype)
    # Rows that are all but sure of the teacher's first token: the others keep their digits.
    logits[:3].scatter_(1, top.indices[:3, :1], 40.0)
    above = torch.rand(shape[0], generator=generator) + 0.5
    mine = logits.clone().requires_grad_()
    found = divergence(mine, Target(top.indices, top.values))
    (found * above).sum().backward()
    plain = logits.double().requires_grad_()
    right = plain_divergence(plain, top.indices, top.values)
    (right * above.double()).sum().backward()
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert mine.grad.dtype == dtype
    torch.testing.assert_close(found.detach().double(), right.detach(), rtol=1e-6, atol=1e-6)
    error = (mine.grad.double() - plain.grad).norm() / plain.grad.norm()
    assert error <= GRADIENT_TOLERANCE[dtype]


def test_a_divergence_from_what_has_no_others_is_finite():
    """A vocabulary of which all but the teacher's tokens are impossible."""
    logits = torch.tensor([[1.0, 2.0, -torch.inf]], requires_grad=True)
    target = Target(torch.tensor([[0, 1]]), torch.tensor([[0.5, 0.5]]).log())
    found = divergence(logits, target)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(logits.grad).all()


def test_lessons_are_of_their_samples_and_a_model_does_not_diverge_from_itself(make_inputs):
    inputs = make_inputs(dtype="float64")
    # Lengths differ, so that batches have another order than the samples.
    samples = [*behaviour_samples(inputs.pii), *inputs.general.samples]
    lessons = teach(inputs.model, samples, tokens=4, batch_tokens=20)
    assert [lesson.sample for lesson in lessons] == samples
    for lesson in lessons:
        ids = torch.tensor([lesson.sample.ids])
        with torch.no_grad():
            log_probs = inputs.model(input_ids=ids).logits[0].log_softmax(1)
        places = [p for p, one in enumerate(lesson.sample.targets(-1)) if one >= 0]
        expected = log_probs[places].topk(4, dim=1)
        assert torch.equal(lesson.target.tokens, expected.indices)
        assert torch.allclose(lesson.target.log_probs, expected.values)
    seen = []
    for numbers, values in divergences(inputs.model, lessons, batch_tokens=20):
        seen += numbers
        assert values.abs().max() < 1e-12
    assert sorted(seen) == list(range(len(lessons)))


def test_a_teacher_whose_predictions_are_no_numbers_is_refused(make_inputs):
    inputs = make_inputs()
    inputs.model.lm_head.weight.data[5] = float("inf")
    with pytest.raises(ModelError, match="not a number"):
        teach(inputs.model, behaviour_samples(inputs.pii), tokens=4, batch_tokens=20)


def test_crops_lose_their_beginning_and_nothing_else():
    sample = MaskedSample(3, list(range(10, 20)), 1, (False,) * 6 + (True,) * 3 + (False,))
    plain = Sample(4, [10, 20, 21, 22], 3)
    tight = Sample(5, [10, 30, 31], 1)
    found = with_crops([sample, plain, tight], 4, prefix=1, seed=0)
    assert [copies[0] for copies in found] == [sample, plain, tight]
    # Nothing lies between the prefix and the first label of the last one.
    assert [len(copies) for copies in found] == [5, 5, 1]
    cuts = set()
    for crop in found[0][1:]:
        cut = len(sample.ids) - len(crop.ids)
        cuts.add(cut)
        assert crop.ids == [10, *sample.ids[1 + cut :]]
        assert [t for t in crop.targets(-1) if t >= 0] == [16, 17, 18]
        assert crop.row == 3
    assert cuts <= set(range(1, 6))
    assert len(cuts) > 1
    for crop in found[1][1:]:
        assert crop.ids in ([10, 22], [10, 21, 22])
        assert [t for t in crop.targets(-1) if t >= 0] == [22]
    assert with_crops([sample], 2, prefix=1, seed=7) == with_crops([sample], 2, prefix=1, seed=7)


def plain_teacher(inputs, units, config):
    metadata = PatchMetadata(inputs.layout.signature)
    return NeuronPatch(metadata, (), unit_edits(inputs, units, config.what()))


def test_one_step_is_that_of_autograd_on_the_whole_model(make_inputs):
    """The gradient through the whole matrices, full distributions, sample by sample."""
    inputs = make_inputs(dtype="float64")
    config = replace(QUICK, teacher="edited", lambda_general=0.0)
    config = replace(config, steps=1, tokens=50, crops=0, batch_size=99)
    model = inputs.model.requires_grad_(False)
    units, _ = find_units(contrast_of(inputs, config), config)
    teacher = plain_teacher(inputs, units, config)
    student = Student(inputs, config, units, make_course(inputs, config, teacher))
    student.train()

    weights = {"pii": 1.0, "general": config.general_weight}
    corpora = {"pii": behaviour_samples(inputs.pii), "general": inputs.general.samples}
    targets = {}
    for name, samples in corpora.items():
        for number, sample in enumerate(samples):
            ids = torch.tensor([sample.ids])
            if name == "pii":
                with teacher.applied(model):
                    targets[name, number] = model(input_ids=ids).logits[0].log_softmax(1)
            else:
                targets[name, number] = model(input_ids=ids).logits[0].log_softmax(1)
    model.requires_grad_(True)
    total = 0.0
    for name, samples in corpora.items():
        for number, sample in enumerate(samples):
            mine = model(input_ids=torch.tensor([sample.ids])).logits[0].log_softmax(1)
            theirs = targets[name, number]
            kl = (theirs.exp() * (theirs - mine)).sum(1)
            counted = torch.tensor([one >= 0 for one in sample.targets(-1)] + [False])
            total = total + weights[name] * kl[counted].mean() / len(samples)
    total.backward()
    layer = model.model.layers
    for matrix, change in student.changes.items():
        module = getattr(layer[matrix.block.layer].mlp, f"{matrix.role}_proj")
        chosen = torch.from_numpy(units[matrix.block])
        gradient = module.weight.grad
        gradient = gradient[:, chosen].T if matrix.role == "down" else gradient[chosen]
        own = module.weight[:, chosen] if matrix.role == "down" else module.weight[chosen]
        # Adam's first step is the rate times g / (|g| + eps); the first of one step is a fifth.
        assert torch.equal(change.detach().sign(), -gradient.sign())
        sizes = {
            role: np.sqrt(
                np.mean(
                    [
                        float(vectors.double().square().mean())
                        for key, vectors in own_vectors(model, units).items()
                        if key.role == role
                    ]
                )
            )
            for role in ("gate", "up", "down")
        }
        rate = 0.2 * config.learning_rate * sizes[matrix.role]
        expected = -rate * gradient / (gradient.abs() + 1e-8)
        assert torch.allclose(change.detach(), expected, rtol=1e-4, atol=1e-9)
        assert own.numel() == change.numel()


def own_vectors(model, units):
    from neuropatch.models.unit_weights import unit_vectors

    return unit_vectors(model, model_layout(model), units)


def test_it_tells_apart_what_one_unit_mixes(planted):
    """The shared unit is needed for what is kept: zeroing it erases both, distilling only one."""
    inputs = planted.inputs
    config = DistilConfig(max_neurons=2, teacher="edited", lambda_retain=0.0)
    config = replace(config, steps=60, learning_rate=0.1, crops=0, mixed=False)
    kept = inputs.retain["kept"]
    before = losses(inputs.model, inputs.pii).mean(), losses(inputs.model, kept).mean()
    units, _ = find_units(contrast_of(inputs, config), config)
    assert units[planted.block].tolist() == sorted([planted.private, planted.shared])
    with plain_teacher(inputs, units, config).applied(inputs.model):
        zeroed = losses(inputs.model, inputs.pii).mean(), losses(inputs.model, kept).mean()
    found = localize(inputs, config)
    with found.patch.applied(inputs.model):
        after = losses(inputs.model, inputs.pii).mean(), losses(inputs.model, kept).mean()
    assert zeroed[0] - before[0] > 0
    assert after[0] - before[0] > 0.8 * (zeroed[0] - before[0])
    assert abs(after[1] - before[1]) < 0.1 * abs(zeroed[1] - before[1])
    first, last = found.statistics["curve"][0], found.statistics["curve"][-1]
    assert last["pii"] < 0.2 * first["pii"]


def test_the_patch_edits_nothing_but_the_units_and_is_the_same_each_time(make_inputs):
    found = [localize(make_inputs(), QUICK) for _ in range(2)]
    assert encode(found[0].patch) == encode(found[1].patch)
    assert encode(found[0].patch) != encode(localize(make_inputs(seed=1), QUICK).patch)
    units, _ = find_units(contrast_of(make_inputs(), QUICK), QUICK)
    assert {edit.matrix.block for edit in found[0].patch.weights} == set(units)
    for edit in found[0].patch.weights:
        index = edit.columns if edit.matrix.role == "down" else edit.rows
        assert edit.kind == "add"
        assert set(index.tolist()) == set(units[edit.matrix.block].tolist())
    lots = localize(make_inputs(), replace(QUICK, select="random"))
    for edit in lots.patch.weights:
        index = edit.columns if edit.matrix.role == "down" else edit.rows
        assert not set(index.tolist()) & set(units[edit.matrix.block].tolist())


def test_the_largest_changes_are_told_relative_to_the_weights_of_their_role():
    up, down = (MatrixId("model.layers", 0, -1, role) for role in ("up", "down"))
    changes = {up: torch.tensor([[1.0, -4.0], [0.0, 2.0]]), down: torch.tensor([[0.3, -0.1]])}
    masks = largest_changes(changes, {"up": 1.0, "down": 0.1}, density=0.5)
    # Relative sizes are 1, 4, 0, 2 and 3, 1.
    assert masks[up].tolist() == [[0, 1], [0, 1]]
    assert masks[down].tolist() == [[1, 0]]
    masks = largest_changes(changes, {"up": 1.0, "down": 0.1}, density=4 / 6)
    assert masks[up].tolist() == [[1, 1], [0, 1]]  # the first of two that are equal
    masks = largest_changes(changes, {"up": 1.0, "down": 0.1}, density=1e-9)
    assert sum(int(mask.sum()) for mask in masks.values()) == 1


def test_few_weights_of_the_units_are_trained_on(make_inputs, monkeypatch):
    """All weights, until half of the steps are taken; then those that were changed most."""
    chosen = []

    def spy(changes, sizes, density):
        masks = largest_changes(changes, sizes, density)
        chosen.append((masks, {matrix: one.detach().clone() for matrix, one in changes.items()}))
        return masks

    monkeypatch.setattr("neuropatch.methods._distil.student.largest_changes", spy)
    config = replace(QUICK, steps=6, density=0.1)
    found = localize(make_inputs(), config)
    ((masks, halfway),) = chosen
    assert all((change != 0).all() for change in halfway.values())
    weights = sum(change.numel() for change in halfway.values())
    assert found.statistics["weights"] == round(0.1 * weights)
    units, _ = find_units(contrast_of(make_inputs(), config), config)
    for edit in found.patch.weights:
        own, other = edit.rows, edit.columns
        if edit.matrix.role == "down":
            own, other = other, own
        places = np.searchsorted(units[edit.matrix.block], own)
        assert len(edit) == int(masks[edit.matrix].sum())
        assert masks[edit.matrix][places, other].all()
        # They went on from where they were.
        moved = np.abs(edit.value - halfway[edit.matrix][places, other].numpy())
        assert 0 < moved.max() < 0.1 * np.abs(edit.value).max() * config.steps


def test_the_model_is_left_as_it_was(make_inputs):
    inputs = make_inputs()
    before = {name: one.clone() for name, one in inputs.model.state_dict().items()}
    hooks = sum(len(module._forward_hooks) for module in inputs.model.modules())
    localize(inputs, QUICK)
    assert all(torch.equal(before[name], one) for name, one in inputs.model.state_dict().items())
    assert hooks == sum(len(module._forward_hooks) for module in inputs.model.modules())
    assert all(one.grad is None for one in inputs.model.parameters())


def test_bad_input_is_refused(make_inputs, make_layout):
    method = find_method("distil")
    for options, culprit in (
        ({"steps": 0}, "steps is 0"),
        ({"prompts": 0}, "prompts is 0"),
        ({"select": "all"}, "select is 'all'"),
        ({"teacher": "me"}, "teacher is 'me'"),
        ({"learning_rate": 0.0}, "learning_rate is"),
        ({"crops": -1}, "crops is -1"),
        ({"density": 0.0}, "density is 0.0"),
        ({"density": 1.5}, "density is 1.5"),
        ({"density": 0.5, "steps": 1}, "steps before and after"),
        # Nothing would be edited by it.
        ({"edit": "scale"}, "--edit scale"),
    ):
        with pytest.raises(UsageError, match=culprit):
            DistilConfig(**options)
    assert DistilConfig(edit="scale", teacher="edited").what().amount == 0.5
    with pytest.raises(UsageError, match="nothing to stay close to"):
        method.check(make_layout(), Given(pii=True), DistilConfig(max_neurons=1))
    with pytest.raises(UsageError, match="tokenizer"):
        localize(replace(make_inputs(), tokenizer=None), QUICK)
    inputs = make_inputs()
    inputs.model.lm_head.weight.data[5] = float("inf")
    with pytest.raises(NeuropatchError, match=r"not finite|not a number"):
        localize(inputs, QUICK)


@pytest.mark.parametrize("exchanged", [False, True])
def test_a_secret_of_nobody_in_particular(make_inputs, make_records, exchanged):
    """The mean over every other record of the category, run one by one."""
    inputs = make_inputs(dtype="float64")
    others = make_records("kept", ["dee = ", "eve has mail "], ["99-88", "x.y"])
    emails = make_records("mails", ["fay: "], ["f.g"], category="email")
    pool = [*others.samples, *emails.samples]
    lookalikes = Lookalikes(inputs.tokenizer, 50)
    lessons = teach_from_others(
        inputs.model,
        inputs.pii.samples,
        pool,
        lookalikes=lookalikes if exchanged else None,
        prompts=99,
        tokens=50,
        batch_tokens=16,
        seed=0,
    )

    def mean(befores, secrets):
        found = []
        for before, secret in zip(befores, secrets, strict=True):
            with torch.no_grad():
                logits = inputs.model(input_ids=torch.tensor([[*before, *secret]])).logits[0]
            found.append(logits[len(before) - 1 : -1].softmax(1))
        return torch.stack(found).mean(0)

    every = [*inputs.pii.samples, *others.samples]
    rng = np.random.default_rng(0)
    for number, (sample, lesson) in enumerate(zip(inputs.pii.samples, lessons, strict=True)):
        secret = sample.ids[sample.span_of.index(0) :]
        free = [o.ids[: o.span_of.index(0)] for i, o in enumerate(every) if i != number]
        befores = [free[which] for which in rng.permutation(len(free))]
        drawn = [secret] * len(free)
        if exchanged:
            nonsense = lookalikes.draw(secret, len(free), rng)
            drawn = lookalikes.draw(secret, len(free), rng, mean(befores, nonsense).log())
            assert all(one != secret for one in drawn)
        expected = mean(befores, drawn)
        assert lesson.sample.label_count == len(secret)
        probabilities = torch.zeros_like(expected).scatter(
            1, lesson.target.tokens, lesson.target.log_probs.exp()
        )
        assert torch.allclose(probabilities, expected, rtol=1e-10, atol=1e-15)


class Vocabulary:
    """What :class:`Lookalikes` asks of a tokenizer."""

    all_special_ids = (0,)

    def __init__(self, *tokens):
        self._tokens = tokens

    def __len__(self):
        return len(self._tokens)

    def convert_ids_to_tokens(self, ids):
        return [self._tokens[one] for one in ids]


def test_lookalikes_have_the_form_of_a_secret():
    tokens = ["<s>", "<b>", *"17", "12", "ab", "Ġab", "Ġcde", "Ab", *"-²é", "@x"]
    found = Lookalikes(Vocabulary(*tokens, "c"), vocabulary=len(tokens))
    rng = np.random.default_rng(0)
    drawn = np.array(found.draw(range(len(tokens)), 200, rng))
    alike = [{tokens[token] for token in column} for column in drawn.T]
    # The first is special, and the last of the vocabulary the model does not have.
    assert alike == [
        {"<s>"},
        {"<b>"},
        {"1", "7"},
        {"1", "7"},
        {"12"},
        {"ab"},
        {"Ġab", "Ġcde"},
        {"Ġab", "Ġcde"},
        {"Ab"},
        {"-"},
        {"²", "é"},
        {"²", "é"},
        {"@x"},
    ]
    assert (drawn == np.array(found.draw(range(len(tokens)), 200, np.random.default_rng(0)))).all()


def test_lookalikes_are_drawn_from_what_is_expected():
    found = Lookalikes(Vocabulary("-", "1", "2", "3", "a"), vocabulary=5)
    expected = torch.tensor([[0.0, 0.1, 0.3, 0.1, 0.5], [0.9, 0.1, 0.0, 0.0, 0.0]]).log()
    drawn = np.array(found.draw([2, 3], 5000, np.random.default_rng(0), expected))
    shares = np.bincount(drawn[:, 0], minlength=5) / 5000
    # Three standard deviations of a share of 5,000 lots are 0.021.
    assert shares == pytest.approx([0, 0.2, 0.6, 0.2, 0], abs=0.021)
    assert set(drawn[:, 1]) == {1}


def test_what_nobody_would_say_has_a_logarithm_too(make_inputs):
    """Probabilities below the least float32 are told apart as logarithms."""
    inputs = make_inputs()
    with torch.no_grad():
        inputs.model.lm_head.weight *= 5000
    (lesson, *_) = teach_from_others(
        inputs.model,
        inputs.pii.samples,
        [],
        lookalikes=None,
        prompts=8,
        tokens=50,
        batch_tokens=64,
        seed=0,
    )
    assert lesson.target.log_probs.min() < -150
    assert torch.isfinite(lesson.target.log_probs).all()


def test_one_record_of_a_category_has_no_others(make_inputs, make_records):
    inputs = replace(make_inputs(), pii=make_records("pii", ["ada: "], ["1-2"]))
    with pytest.raises(DataError, match="one record only with a secret of category 'phone'"):
        localize(inputs, QUICK)
    found = localize(inputs, replace(QUICK, teacher="edited"))
    assert len(found.patch)
    retained = make_records("kept", ["bo: ", "cy "], ["3-4", "77"])
    assert len(localize(replace(inputs, retain={"kept": retained}), QUICK).patch)
