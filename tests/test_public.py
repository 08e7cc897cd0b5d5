import importlib
import subprocess
import sys

import pytest

import tetrisim


def test_every_public_name_is_there_and_listed():
    assert all(getattr(tetrisim, name) is not None for name in tetrisim.__all__)
    assert set(tetrisim.__all__) <= set(dir(tetrisim))
    assert set(tetrisim.__all__) == {"__version__", *tetrisim._HOMES}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="simulat"):
        _ = tetrisim.simulat


def in_a_new_process(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_simulate_is_the_function_whoever_imports_its_module_first():
    show = "print(callable(tetrisim.simulate), callable(tetrisim.compare))"
    first = f"import tetrisim.studies.compare, tetrisim; {show}"
    later = f"import tetrisim; tetrisim.simulate; import tetrisim.simulate; {show}"
    assert in_a_new_process(first).split() == ["True", "True"]
    assert in_a_new_process(later).split() == ["True", "True"]


def test_import_is_light():
    loaded = in_a_new_process("import sys, tetrisim; tetrisim.load; print(*sys.modules)").split()
    assert not {"pandas", "matplotlib", "numpy", "pyarrow"} & set(loaded)


def test_the_version_is_that_of_the_package():
    assert tetrisim.__version__ == importlib.metadata.version("tetrisim")
