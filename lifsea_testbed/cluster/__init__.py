"""A private cluster for the nodes under test: etcd and the control plane of Kubernetes, on the host's loopback."""
