"""A cluster of its own for the nodes under test: etcd and the control plane of Kubernetes, on this host's loopback."""
