// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

// Package localcluster runs a Kubernetes control plane on this machine, without root and without containers: etcd and the
// API server (through controller-runtime's envtest), the controller manager, the scheduler, and kwok, which simulates nodes
// and kubelets. Deployments roll out, pods become ready and containers restart as in a real cluster; no container runs.
// The demo, the end-to-end tests and the benchmark share it. With Options.RealNode containers do run; see below.
//
// # What a simulated kubelet does
//
// It starts the containers of a scheduled pod and restarts exactly the container whose image changed. As a real kubelet does,
// it first says that it has seen the pod's generation (status.observedGeneration), then kills the container, and only then
// has the new one (another containerID, restartCount + 1). Changed resources appear in the status and restart nothing. An image
// whose name holds "missing" cannot be pulled: the old container is gone by then. See assets/kwok.yaml.
//
// # What a real node is
//
// A kubelet, containerd and runc, as root, in a mount namespace and a network namespace of their own. Where they write by default lies in memory
// there, so that their configuration is mostly none. The network has no way out, and no address of this machine's. This process, which
// can make sockets inside (network_linux.go), carries what has to cross: the kubelet's requests to the API server, the API server's to the
// kubelet (exec and logs, by its egress configuration), the pulls of images, and Node.Dial, by which tests reach pods. The images are made
// in memory (images.go), so that a pull is a real one, fails when there is no such image, and takes as long as a test wants.
//
// # How a cluster ends
//
// All of its processes and files must go in every case: Stop, a signal, a panic, SIGKILL. There is therefore one way
// only, and it needs nothing from the process that dies. The lifeline is a pipe whose one end this process holds, and no
// other; a watchdog reads the other end. When the pipe closes, the watchdog kills every process that was started through
// a wrapper of the lifeline (which recorded its pid) and removes the cluster's directory. Stop closes the pipe. Of a real node it
// kills whatever runs in the node's cgroups, containers included, until they can be removed; mounts and network go with the last process.
// What Go code can notice besides, the death of the parent, is in WithParent.
package localcluster
