"""A whole federation in containers: two clouds, two directories on a three-node etcd, a broker.

Promises: `prepare` makes certificates, keys and settings once and changes nothing that is there;
every key is in a file of its own that only its owner may read, and no container sees another one's;
authorities' keys are in no container at all.

Never: starts or stops a container. `compose.yaml` says what runs; docs/containers.md says how.
"""
