"""Transformers sequence classifiers: predictions, training, and patches on their files."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from neuropatch.checkpoint.apply import apply_patches, revert_patches
from neuropatch.checkpoint.index import Checkpoint
from neuropatch.errors import DataError, ModelError
from neuropatch.fairness.distributions import Distributions
from neuropatch.fairness.examples import Examples
from neuropatch.fairness.finetune import FineTuneConfig, fair_finetune
from neuropatch.fairness.finetune_patch import delta_patch
from neuropatch.fairness.loading import load_classifier, load_recipe
from neuropatch.fairness.text import TRAINING, TextRecipe, load_text_classifier
from neuropatch.fairness.training import TextTrainer
from neuropatch.models.modules import model_layout
from neuropatch.patch.metadata import PatchMetadata

MODEL_TYPES = ("bert", "gpt2", "llama")
WORDS = ("<pad>", "<unk>", "he", "she", "works", "as", "nurse", "judge", "in", "court", "ward")


@pytest.fixture(scope="session")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    built = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "<unk>"))
    built.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=built, pad_token="<pad>", unk_token="<unk>")


@pytest.fixture(scope="session")
def make_folder(tiny_configs, tokenizer, tmp_path_factory):
    """``make_folder(model_type, dtype)``: a saved tiny sequence classifier."""

    def make(model_type, dtype="float32", **overrides):
        folder = tmp_path_factory.mktemp(model_type)
        settings = {**tiny_configs[model_type], "pad_token_id": 0, "is_decoder": False}
        config = AutoConfig.for_model(**{**settings, **overrides})
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = AutoModelForSequenceClassification.from_config(config)
            # At the scale of the initial weights all probabilities would be 0.5.
            for parameter in model.parameters():
                parameter.data.mul_(4)
        model.to(getattr(torch, dtype)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def texts():
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    groups = rng.integers(2, size=40)
    rows = tuple(
        " ".join(
            [("he", "she")[group], "works", "as", ("judge", "nurse")[label]]
            + ["in"] * int(rng.integers(4))
        )
        for label, group in zip(labels, groups, strict=True)
    )
    return Examples({}, rows, labels, groups, ("he", "she"), "gender", "job=nurse", "nurse")


@pytest.fixture
def rows(texts):
    first = texts.select(texts.groups == 0), texts.select(texts.groups == 1)
    return Distributions(*first, ("he", "she"))


def _logits(model, tokenizer, texts):
    """Logits of plain transformers, one text at a time, so that nothing is padded."""
    with torch.no_grad():
        return torch.cat(
            [
                model(input_ids=torch.tensor([tokenizer(text)["input_ids"]])).logits.float()
                for text in texts
            ]
        )


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_probabilities_are_those_of_plain_transformers(model_type, make_folder, tokenizer, texts):
    folder = make_folder(model_type)
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    wanted = _logits(plain, tokenizer, texts.texts).double().softmax(1)[:, 1].numpy()
    found = load_classifier(folder, device="cpu").probabilities(texts)
    assert wanted.std() > 1e-3
    # Padding changes the order of float32 sums, not what is summed.
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_class_is_found_by_its_name(make_folder, tokenizer, texts):
    names = {0: "clerk", 1: "nurse", 2: "judge"}
    folder = make_folder("bert", id2label=names, label2id={v: k for k, v in names.items()})
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    share = _logits(plain, tokenizer, texts.texts).double().softmax(1).numpy()
    classifier = load_classifier(folder, device="cpu")
    np.testing.assert_allclose(classifier.probabilities(texts), share[:, 1], atol=1e-5)
    judges = replace(texts, positive="judge", label="job=judge")
    np.testing.assert_allclose(classifier.probabilities(judges), share[:, 2], atol=1e-5)
    with pytest.raises(DataError, match="has no class 'poet'"):
        classifier.probabilities(replace(texts, positive="poet", label="job=poet"))


def test_a_single_logit_is_the_log_odds(make_folder, tokenizer, texts):
    folder = make_folder("bert", num_labels=1)
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    wanted = torch.sigmoid(_logits(plain, tokenizer, texts.texts)[:, 0]).numpy()
    found = load_classifier(folder, device="cpu").probabilities(texts)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_patch_on_files_is_the_fine_tuned_model_and_reverts(
    model_type, dtype, make_folder, rows, texts, tokenizer, tmp_path
):
    folder = make_folder(model_type, dtype)
    base = load_classifier(folder, device="cpu")
    config = FineTuneConfig(
        epochs=1, learning_rate=1e-2, max_cost=1.0, batch_size=8, max_neurons=0.2
    )
    tuned = fair_finetune(base, rows, rows, config)
    # Whatever early stopping kept, the patch is to carry a change of every matrix.
    with torch.no_grad():
        layout = model_layout(tuned.classifier.model)
        for name, parameter in tuned.classifier.model.named_parameters():
            if any(name in layout.memory(m).names for m in layout.matrices(("up", "down"))):
                parameter.mul_(1.25)
    checkpoint = Checkpoint.open(folder)
    patch = delta_patch(
        checkpoint, base, tuned.classifier, PatchMetadata(checkpoint.layout.signature)
    )
    assert len({edit.matrix for edit in patch.weights}) >= 4
    apply_patches(folder, [patch], tmp_path / "fair")
    memory = AutoModelForSequenceClassification.from_pretrained(folder, dtype="auto").eval()
    before = _logits(memory, tokenizer, texts.texts)
    patch.apply(memory)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "fair", dtype="auto")
    after = _logits(plain.eval(), tokenizer, texts.texts)
    assert torch.equal(after, _logits(memory, tokenizer, texts.texts))
    assert not torch.equal(after, before)
    revert_patches(tmp_path / "fair", [patch], tmp_path / "back")
    name = "model.safetensors"
    assert (tmp_path / "back" / name).read_bytes() == (folder / name).read_bytes()


def test_a_bert_patch_fits_names_with_and_without_the_prefix(
    make_folder, make_patch, base_of, tmp_path
):
    folder = make_folder("bert")
    bare = AutoModel.from_pretrained(folder).eval()
    bare.save_pretrained(tmp_path / "bare")
    with_prefix, without = Checkpoint.open(folder), Checkpoint.open(tmp_path / "bare")
    assert "bert.encoder.layer.0.output.dense.weight" in with_prefix.tensors
    assert "encoder.layer.0.output.dense.weight" in without.tensors
    patch = make_patch(with_prefix.layout, base=base_of(bare))
    outputs = []
    for name, source in (("one", folder), ("two", tmp_path / "bare")):
        apply_patches(source, [patch], tmp_path / name)
        model = AutoModel.from_pretrained(tmp_path / name).eval()
        with torch.no_grad():
            outputs.append(model(torch.tensor([[2, 4, 5, 6]])).last_hidden_state)
    patch.apply(bare)
    with torch.no_grad():
        outputs.append(bare(torch.tensor([[2, 4, 5, 6]])).last_hidden_state)
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_training_gives_an_encoder_a_head_and_records_how(make_folder, texts, tmp_path, capfd):
    folder = make_folder("bert")
    recipe = TextRecipe("../encoder", epochs=20, batch_size=8, learning_rate=1e-2)
    bare = tmp_path / "encoder"
    AutoModel.from_pretrained(folder).save_pretrained(bare)
    load_text_classifier(folder, "cpu")._tokenizer.save_pretrained(bare)
    with pytest.raises(ModelError, match="has no classification head"):
        load_classifier(bare, device="cpu")
    trained = TextTrainer(recipe, bare)(texts, seed=1)
    right = (trained.probabilities(texts) >= 0.5) == texts.labels
    assert right.mean() > 0.9
    saved = tmp_path / "trained"
    saved.mkdir()
    capfd.readouterr()
    trained.save(saved)
    assert capfd.readouterr().err == ""
    config = json.loads((saved / "config.json").read_text())
    assert config[TRAINING] == asdict(recipe)
    assert config["label2id"] == {"not nurse": 0, "nurse": 1}
    again = load_recipe(saved, device="cpu")(texts, 1)
    assert (again.probabilities(texts) == trained.probabilities(texts)).all()
    assert (
        load_classifier(saved, device="cpu").probabilities(texts) == again.probabilities(texts)
    ).all()


@pytest.mark.parametrize(
    ("recorded", "problem"),
    [
        (None, "does not say how it was trained"),
        ({"start": "x"}, "is damaged"),
        ({**asdict(TextRecipe("x")), "epochs": "3"}, "is damaged"),
        (asdict(TextRecipe("../gone")), "'../gone', which is not there"),
    ],
)
def test_a_folder_without_a_usable_recipe_trains_no_victims(make_folder, recorded, problem):
    folder = make_folder("bert")
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | ({TRAINING: recorded} if recorded else {})))
    with pytest.raises(ModelError, match=problem):
        load_recipe(folder, device="cpu")


def test_rows_of_a_table_are_refused(make_folder, make_examples):
    with pytest.raises(DataError, match="classifies texts"):
        load_classifier(make_folder("bert"), device="cpu").probabilities(make_examples(5))
