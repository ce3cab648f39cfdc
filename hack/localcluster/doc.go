// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

// Package localcluster runs a Kubernetes control plane on this machine, without root and without containers: etcd and the
// API server (through controller-runtime's envtest), the controller manager, the scheduler, and kwok, which simulates nodes
// and kubelets. Deployments roll out, pods become ready and containers restart as in a real cluster; no container runs.
// The demo, the end-to-end tests and the benchmark share it.
//
// # What a simulated kubelet does
//
// It starts the containers of a scheduled pod and restarts exactly the container whose image changed. As a real kubelet does,
// it first says that it has seen the pod's generation (status.observedGeneration), then kills the container, and only then
// has the new one (another containerID, restartCount + 1). Changed resources appear in the status and restart nothing. An image
// whose name holds "missing" cannot be pulled: the old container is gone by then. See assets/kwok.yaml.
//
// # How a cluster ends
//
// All of its processes and files must go in every case: Stop, a signal, a panic, SIGKILL. There is therefore one way
// only, and it needs nothing from the process that dies. The lifeline is a pipe whose one end this process holds, and no
// other; a watchdog reads the other end. When the pipe closes, the watchdog kills every process that was started through
// a wrapper of the lifeline (which recorded its pid) and removes the cluster's directory. Stop closes the pipe.
// What Go code can notice besides, the death of the parent, is in WithParent.
package localcluster
