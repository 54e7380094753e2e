import pytest

from . import world


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    return world.make(tmp_path_factory.mktemp("project"))


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch, pytestconfig):
    monkeypatch.chdir(pytestconfig.rootpath)


@pytest.fixture(scope="session")
def base_run(project, tmp_path_factory, pytestconfig):
    """One finished SafeDPO run on eight devices, to compare others with."""
    workdir = tmp_path_factory.mktemp("runs") / "base"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(pytestconfig.rootpath)
        assert world.train(project, workdir) == 0
    return workdir
