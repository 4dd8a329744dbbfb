"""The start of commands: what is switched off while they import is as it was afterwards."""

import gc
import os

import pytest

from dsmap.tools.shared.start import importing

PLUGINS = "PYDANTIC_DISABLE_PLUGINS"


@pytest.mark.parametrize("collects", [True, False])
@pytest.mark.parametrize("plugins", [None, "", "some"])
def test_all_is_as_it_was_after_the_imports(monkeypatch, collects, plugins):
    monkeypatch.delenv(PLUGINS, raising=False)
    if plugins is not None:
        monkeypatch.setenv(PLUGINS, plugins)
    (gc.enable if collects else gc.disable)()
    try:
        with importing(), importing():
            assert not gc.isenabled()
        assert (gc.isenabled(), os.environ.get(PLUGINS)) == (collects, plugins)
        with pytest.raises(ImportError), importing():
            raise ImportError
        assert (gc.isenabled(), os.environ.get(PLUGINS)) == (collects, plugins)
    finally:
        gc.enable()
        gc.unfreeze()
