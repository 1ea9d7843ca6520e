from __future__ import annotations

import pytest

from scripts.forbidden import faults


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import dill.source",
        "eval(text)",
        "exec(text)",
        "import os\nos.system('ls')",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "yaml.load(text)",
        "subprocess.run(line, shell=True)",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
        "numpy.load(path, allow_pickle=flag)",
        "jinja2.Environment()",
    ],
)
def test_forbidden_things_are_found(source: str) -> None:
    assert len(faults(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "pattern = re.compile('a')",
        "torch.load(path, weights_only=True)",
        "numpy.load(path, allow_pickle=False)",
        "jinja2.sandbox.ImmutableSandboxedEnvironment()",
        "subprocess.run([program], shell=False)",
        "raise ConfigError('trust_remote_code is never needed')",
    ],
)
def test_harmless_things_are_not(source: str) -> None:
    assert faults(source) == []


def test_the_one_unpickler_may_import_pickle_but_not_load_with_it() -> None:
    assert faults("import pickle\nclass Reader(pickle.Unpickler): ...", may_unpickle=True) == []
    assert faults("import pickle\npickle.loads(data)", may_unpickle=True) == [(2, "pickle.loads()")]
