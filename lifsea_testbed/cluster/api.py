"""The API server as an operator sees it: nodes and pods, through the official client of Kubernetes."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import urllib3
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from lifsea_testbed.cluster.objects import Node, Pod
from lifsea_testbed.errors import HostError
from lifsea_testbed.support.sanitize import first_line

T = TypeVar("T")
NAMESPACE = "default"
#: How long one request may take (seconds on the host); a log comes from the node itself.
_REQUEST = 30
_NOT_FOUND = 404
#: The parts of a kubelet's healthz (Kubernetes, pkg/kubelet/server: InstallDefaultHandlers).
CHECKS = ("ping", "log", "syncloop")


class Api:
    """A client of one API server. A missing object is None; every other failure is a HostError.

    `require` is called before each request, and raises a HostError where the control plane cannot answer it rightly:
    every wait on the cluster is made of requests, and ends at once.
    """

    def __init__(self, server: str, *, authority: Path, certificate: Path, key: Path,
                 require: Callable[[], None] = lambda: None) -> None:
        self._require = require
        configuration = client.Configuration(host=server, ssl_ca_cert=str(authority))
        configuration.cert_file, configuration.key_file = str(certificate), str(key)
        self._client = client.ApiClient(configuration)
        self._core = client.CoreV1Api(self._client)

    def node(self, name: str) -> Node | None:
        """Returns the node of that name."""
        found = self._requested(lambda: self._core.read_node(name, _request_timeout=_REQUEST))
        return _node(self._fields(found)) if found else None

    def nodes(self) -> list[Node]:
        """Returns every node."""
        found = self._requested(lambda: self._core.list_node(_request_timeout=_REQUEST))
        return [_node(self._fields(item)) for item in found.items] if found else []

    def checks(self, node: str) -> dict[str, str]:
        """Returns the answer of each part of a kubelet's healthz, through the API server: ok, or the error."""
        return {check: self._checked(node, check) for check in CHECKS}

    def cordon(self, name: str, *, cordoned: bool = True) -> None:
        """Makes a node unschedulable, or schedulable again."""
        body = {"spec": {"unschedulable": cordoned}}
        self._requested(lambda: self._core.patch_node(name, body, _request_timeout=_REQUEST))

    def delete_node(self, name: str) -> None:
        """Deletes a node."""
        self._requested(lambda: self._core.delete_node(name, _request_timeout=_REQUEST))

    def create_pod(self, manifest: Mapping[str, Any]) -> None:
        """Creates a pod."""
        pod = client.V1Pod.model_validate(dict(manifest))
        self._requested(lambda: self._core.create_namespaced_pod(NAMESPACE, pod, _request_timeout=_REQUEST))

    def pod(self, name: str) -> Pod | None:
        """Returns the pod of that name."""
        found = self._requested(lambda: self._core.read_namespaced_pod(name, NAMESPACE, _request_timeout=_REQUEST))
        return _pod(self._fields(found)) if found else None

    def pods(self, node: str) -> list[Pod]:
        """Returns the pods on a node."""
        selector = f"spec.nodeName={node}"
        found = self._requested(lambda: self._core.list_namespaced_pod(NAMESPACE, field_selector=selector,
                                                                       _request_timeout=_REQUEST))  # fmt: skip
        return [_pod(self._fields(item)) for item in found.items] if found else []

    def log(self, name: str) -> str:
        """Returns a pod's log, which the API server gets from the kubelet; empty if there is no such pod."""
        found = self._requested(lambda: self._core.read_namespaced_pod_log(name, NAMESPACE, _request_timeout=_REQUEST))
        return str(found or "")

    def delete_pod(self, name: str) -> None:
        """Deletes a pod; it is gone once the kubelet has ended it."""
        self._requested(lambda: self._core.delete_namespaced_pod(name, NAMESPACE, grace_period_seconds=1,
                                                            _request_timeout=_REQUEST))  # fmt: skip

    def evict(self, name: str) -> None:
        """Evicts a pod from its node, as a drain does."""
        body = client.V1Eviction.model_validate({"apiVersion": "policy/v1beta1", "kind": "Eviction",
                                                 "metadata": {"name": name, "namespace": NAMESPACE}})  # fmt: skip
        self._requested(lambda: self._core.create_namespaced_pod_eviction(name, NAMESPACE, body,
                                                                          _request_timeout=_REQUEST))  # fmt: skip

    def events(self, name: str) -> list[str]:
        """Returns the events of a pod or node, in order: reason and message."""
        selector = f"involvedObject.name={name}"
        found = self._requested(lambda: self._core.list_namespaced_event(NAMESPACE, field_selector=selector,
                                                                    _request_timeout=_REQUEST))  # fmt: skip
        return [f"{item.reason}: {item.message}" for item in found.items] if found else []

    def _checked(self, node: str, check: str) -> str:
        self._require()
        request = self._core.connect_get_node_proxy_with_path
        try:
            return request(node, f"healthz/{check}", _request_timeout=_REQUEST).strip()
        except ApiException as error:
            return f"{error.status}: {first_line(str(error.body))}"

    def _requested(self, request: Callable[[], T]) -> T | None:
        """Returns the answer, or None if there is no such object.

        Raises:
            HostError: the API server does not answer, or refuses the request; or another program has ended.
        """
        self._require()
        try:
            return request()
        except ApiException as error:
            if error.status == _NOT_FOUND:
                return None
            raise HostError(f"the API server refuses the request: {error.status} {error.reason}",
                            evidence=str(error.body)[:2000]) from None
        except ValueError as error:
            raise HostError(f"the client of Kubernetes cannot read the API server's answer: {error}") from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise HostError(f"the API server does not answer: {error}",
                            hint="see its log, kube-apiserver.log, in the evidence") from None

    def _fields(self, found: object) -> Mapping[str, Any]:
        """An object as the API has it in JSON."""
        fields: Mapping[str, Any] = self._client.sanitize_for_serialization(found)  # type: ignore[no-untyped-call]
        return fields


def _node(fields: Mapping[str, Any]) -> Node:
    status, spec, metadata = fields.get("status") or {}, fields.get("spec") or {}, fields.get("metadata") or {}
    about, capacity = status.get("nodeInfo") or {}, status.get("capacity") or {}
    conditions = status.get("conditions") or []
    reported = [one.get("lastHeartbeatTime") for one in conditions if one["type"] == "Ready"]
    return Node(
        name=str(metadata.get("name")), reported=_moment(reported[0]) if reported else None,
        conditions={one["type"]: (one["status"], one.get("message") or one.get("reason") or "") for one in conditions},
        processors=int(capacity.get("cpu") or 0), memory=int(str(capacity.get("memory") or "0").removesuffix("Ki")),
        kubelet=about.get("kubeletVersion", ""), os=about.get("osImage", ""), kernel=about.get("kernelVersion", ""),
        runtime=about.get("containerRuntimeVersion", ""), boot=about.get("bootID", ""),
        labels=metadata.get("labels") or {}, is_cordoned=bool(spec.get("unschedulable")),
    )  # fmt: skip


def _pod(fields: Mapping[str, Any]) -> Pod:
    status, spec, metadata = fields.get("status") or {}, fields.get("spec") or {}, fields.get("metadata") or {}
    states = [state for one in status.get("containerStatuses") or [] for state in (one.get("state") or {}).values()]
    why = [f"{state.get('reason') or ''}: {state.get('message') or ''}".strip(": ") for state in states if state]
    return Pod(name=str(metadata.get("name")), node=spec.get("nodeName") or "", phase=status.get("phase") or "",
               address=status.get("podIP") or "", why="; ".join(filter(None, [status.get("reason") or "", *why])))


def _moment(value: Any) -> datetime.datetime | None:
    if isinstance(value, str):
        return datetime.datetime.fromisoformat(value)
    return value if isinstance(value, datetime.datetime) else None
