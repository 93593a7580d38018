# SPDX-License-Identifier: Apache-2.0
"""The parts of the `kubernetes` package that are used, without the rest of it.

Importing anything of `kubernetes` runs its ``__init__``, which imports all of it: pydantic,
requests, oauthlib, dateutil, YAML; with 37.0.2 that is 26.5 MB of memory on each node. The three
modules that a pod needs (configuration, in-cluster loader, transport) cost 8 MB, of which urllib3
is 6. They are imported here under packages whose ``__init__`` is not run.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from types import ModuleType

_PACKAGE = "kubernetes"
_NOT_RUN = (_PACKAGE, f"{_PACKAGE}.config", f"{_PACKAGE}.utils")
_lock = threading.Lock()


class Configuration(Protocol):
    """kubernetes.client.Configuration, as far as it is used."""

    host: str
    api_key: dict[str, str]

    def auth_settings(self) -> dict[str, dict[str, Any]]: ...


class ClientLibrary(NamedTuple):
    """Classes of the `kubernetes` package."""

    configuration: Any
    """kubernetes.client.Configuration"""
    in_cluster_loader: Any
    """kubernetes.config.incluster_config.InClusterConfigLoader"""
    transport: Any
    """kubernetes.client.rest.RESTClientObject: TLS, proxies and pools as configured"""


def client_library() -> ClientLibrary:
    """Raises ImportError where the package is not installed."""
    with _lock:
        if _PACKAGE in sys.modules:
            return _load()
        try:
            return _without_packages()
        except (AttributeError, ImportError):
            # A version with another layout: everything, then.
            return _load()


def load_kubeconfig(path: str, context: str | None, configuration: Configuration) -> None:
    """Fill a configuration from kubeconfig files (`path` as in $KUBECONFIG).

    This imports the whole package. Raises what the package raises: ConfigException, OSError, YAML's
    errors and, for a file of an odd shape, nearly anything.
    """
    with _lock:
        config: Any = importlib.import_module("kubernetes.config")
    # The file is the user's: a refreshed token is not written back.
    config.load_kube_config(
        config_file=path, context=context, client_configuration=configuration, persist_config=False
    )


def _load() -> ClientLibrary:
    def module(name: str) -> Any:
        return importlib.import_module(f"{_PACKAGE}.{name}")

    return ClientLibrary(
        configuration=module("client.configuration").Configuration,
        in_cluster_loader=module("config.incluster_config").InClusterConfigLoader,
        transport=module("client.rest").RESTClientObject,
    )


def _without_packages() -> ClientLibrary:
    try:
        for name in _NOT_RUN:
            sys.modules[name] = _package_not_run(name)
        return _load()
    finally:
        # What was loaded stays alive by its classes. The names are free again, so that
        # `import kubernetes` elsewhere gives the whole package.
        for name in [name for name in sys.modules if name.partition(".")[0] == _PACKAGE]:
            del sys.modules[name]


def _package_not_run(name: str) -> ModuleType:
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"the Python package {name!r} is not installed", name=name)
    return importlib.util.module_from_spec(spec)
