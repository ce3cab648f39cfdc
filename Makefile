# Every target is one honest command. Nothing but Go and make is needed, except where a target says so; what is built lands in bin/.

IMG ?= sidecarset:dev
KUBEBUILDER_ASSETS ?= $(CURDIR)/bin/k8s
TEST_ENV = KUBE_CACHE_MUTATION_DETECTOR=true KUBEBUILDER_ASSETS=$(KUBEBUILDER_ASSETS)

GO_BUILD := CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w -buildid='
TOOL_MODULE := hack/tools/go.mod hack/tools/go.sum

.DEFAULT_GOAL := help
# The order of prerequisites counts (generate before build before demo), and Go uses all cores by itself.
.NOTPARALLEL:

.PHONY: help
help: ## List the targets.
	@awk 'BEGIN { FS = ":.*## " } /^## / { printf "\n%s\n", substr($$0, 4) } /^[a-z0-9-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

## Try it

.PHONY: demo
demo: kubernetes build ## Show the whole path on a local cluster, in a minute. KEEP=1 leaves the cluster up.
	@go run ./hack/demo $(if $(KEEP),--keep)

.PHONY: run
run: build ## Run the operator here, on the cluster of your KUBECONFIG. ARGS="--zap-log-level=debug" and so on.
	bin/sidecarset --leader-elect=false $(ARGS)

## Build

.PHONY: build
build: ## Build the operator: bin/sidecarset.
	@$(GO_BUILD) -o bin/sidecarset .

.PHONY: docker-build
docker-build: ## Build the image IMG.
	docker build -t $(IMG) .

.PHONY: kubernetes
kubernetes: ## Build what is missing in bin/k8s: etcd, the control plane, kubectl, kwok. KUBERNETES_BINARIES="kubelet" for others.
	@hack/kubernetes/build $(KUBERNETES_BINARIES)

# Before minutes of building.
.PHONY: check-node
check-node:
	@go run ./hack/localcluster/cmd -check

.PHONY: node
node: kubernetes bin/k8s/containerd bin/k8s/containerd-shim-runc-v2 ## Build what a real node needs besides: kubelet, containerd.
	@hack/kubernetes/build kubelet

bin/k8s/containerd bin/k8s/containerd-shim-runc-v2: hack/containerd/go.mod hack/containerd/go.sum
	cd hack/containerd && $(GO_BUILD) -o ../../$@ github.com/containerd/containerd/v2/cmd/$(@F)

.PHONY: clean
clean: ## Remove all that was built.
	find bin ! -path bin ! -path bin/.gitignore -delete

## Test

.PHONY: test
test: kubernetes build ## Run all tests: tables, controllers on a real API server, the operator on a local cluster.
	@echo "testing all packages; those with a control plane of their own take a minute or two each, and test/e2e, at the end, about 25"
	$(TEST_ENV) go test -count=1 -timeout=45m $(TEST_FLAGS) $$(go list ./... | grep -v /test/e2e)
	$(TEST_ENV) go tool ginkgo -p --timeout=45m ./test/e2e

.PHONY: model
model: ## Search the model of the promotion, docs/promotion.pml, for what can go wrong. Needs spin and gcc.
	@hack/model/check

.PHONY: test-e2e
test-e2e: check-node node ## Run the tests that look at real containers, as root on Linux: kubelet, containerd and runc in namespaces of their own.
	go test -count=1 -timeout=45m $(TEST_FLAGS) ./test/e2e -real-node

.PHONY: bench
bench: kubernetes build ## Measure the operator; writes docs/benchmark.md. BENCH="inplace scale fleet" chooses, each takes some minutes.
	@go run ./test/bench $(BENCH_FLAGS) $(BENCH)

.PHONY: lint
lint: bin/golangci-lint ## Run the linters that .golangci.yml chooses.
	bin/golangci-lint run --allow-parallel-runners ./...

.PHONY: verify
verify: generate manifests docs tidy ## Fail if anything generated is not committed as it would be generated now.
	git --no-pager diff --exit-code
	@new=$$(git ls-files --others --exclude-standard); if [ -n "$$new" ]; then echo "not committed:" $$new; exit 1; fi

## Generate

.PHONY: generate
generate: bin/controller-gen ## Generate the types' DeepCopy methods.
	bin/controller-gen object:headerFile=hack/boilerplate.go.txt paths=./api/...

.PHONY: manifests
manifests: bin/controller-gen ## Generate the CRDs from the types and the role from the controllers' markers.
	bin/controller-gen crd:generateEmbeddedObjectMeta=true paths=./api/... output:crd:dir=config/crd/bases
	@# No controller serves ClusterSidecarSets yet: whoever could create one would wait in vain.
	@rm -f config/crd/bases/apps.sidecarset.io_clustersidecarsets.yaml
	bin/controller-gen rbac:roleName=sidecarset-manager paths=./controllers/... output:rbac:dir=config/rbac

.PHONY: docs
docs: bin/crd-ref-docs ## Generate docs/api.md from the types.
	bin/crd-ref-docs --log-level=ERROR --source-path=api --config=hack/docs/crd-ref-docs.yaml --renderer=markdown --output-path=docs/api.md

.PHONY: tidy
tidy: ## Tidy go.mod and go.sum of all modules.
	go mod tidy
	cd hack/containerd && go mod tidy
	cd hack/kubernetes && go mod tidy
	cd hack/tools && go mod tidy

bin/controller-gen: PACKAGE := sigs.k8s.io/controller-tools/cmd/controller-gen
bin/crd-ref-docs: PACKAGE := github.com/elastic/crd-ref-docs
bin/golangci-lint: PACKAGE := github.com/golangci/golangci-lint/v2/cmd/golangci-lint
bin/controller-gen bin/crd-ref-docs bin/golangci-lint: $(TOOL_MODULE)
	cd hack/tools && $(GO_BUILD) -o ../../$@ $(PACKAGE)
