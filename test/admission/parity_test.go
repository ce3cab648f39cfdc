// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"math/rand/v2"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"sigs.k8s.io/yaml"

	"github.com/sidecarset/sidecarset/controllers/injection"
)

var _ = Describe("The policy and injection.Validate", func() {
	It("agree on the first sentence about any spec", func(ctx SpecContext) {
		const specs = 500
		seed := uint64(GinkgoRandomSeed())
		random := rand.New(rand.NewPCG(seed, seed))
		refused := 0
		for range specs {
			spec := randomSpec(random)
			content, err := yaml.Marshal(spec)
			Expect(err).NotTo(HaveOccurred())

			said := ""
			if err := dryRunCreate(ctx, sidecarSet, string(content)); err != nil {
				refused++
				_, said, _ = strings.Cut(err.Error(), policySays)
				Expect(said).NotTo(BeEmpty(), "refused, but not by the policy: %v\n%s", err, content)
			}
			sentences := append(injection.Validate(parseSpec(string(content))), "")
			Expect(sentences[0]).To(Equal(said), "seed %d\n%s", seed, content)
		}
		GinkgoWriter.Printf("%d of %d specs were refused\n", refused, specs)
		Expect(refused).To(And(BeNumerically(">", specs/4), BeNumerically("<", specs*3/4)), "the specs test little")
	})
})

// randomSpec returns a spec that the schema accepts and in which, about every other time, something offends the policy. There is at most one
// entry in each map, because CEL does not go through maps in a fixed order.
func randomSpec(random *rand.Rand) map[string]any {
	rarely := func() bool { return random.IntN(16) == 0 }

	container := func(name string) map[string]any {
		c := map[string]any{"name": name, "image": mostly(random, "busybox:1.36", "")}
		if random.IntN(3) == 0 {
			c["restartPolicy"] = "Always"
		}
		if c["restartPolicy"] != nil || rarely() {
			c["inherit"] = map[string]any{"volumeMounts": oneOf(random, "None", "All")}
		}
		if random.IntN(2) == 0 {
			c["volumeMounts"] = []any{map[string]any{"name": mostly(random, "logs", "cache", "other"), "mountPath": "/a"}}
		}
		return c
	}
	names := func(all ...string) []string {
		var chosen []string
		for _, name := range all {
			if random.IntN(2) == 0 {
				chosen = append(chosen, name)
			}
		}
		if rarely() {
			chosen = append(chosen, "Bad_"+all[0])
		}
		return chosen
	}
	selector := func() map[string]any {
		s := map[string]any{}
		if random.IntN(2) == 0 {
			s["matchLabels"] = map[string]any{
				mostly(random, "app", "example.com/app", "an app"): mostly(random, "web", "", "my web"),
			}
		}
		if rarely() {
			s["matchExpressions"] = []any{map[string]any{
				"key":      mostly(random, "tier", "a tier"),
				"operator": oneOf(random, "In", "NotIn", "Exists", "DoesNotExist", "Equals"),
				"values":   oneOf(random, []any{}, []any{"web"}, []any{"web", "-"}),
			}}
		}
		return s
	}

	spec := map[string]any{"selector": selector()}
	var containers, initContainers, volumes []any
	for _, name := range names("agent", "shipper") {
		containers = append(containers, container(name))
	}
	for _, name := range names("proxy", "setup", mostly(random, "init", "agent")) {
		initContainers = append(initContainers, container(name))
	}
	for _, name := range append(names("cache", "tmp"), "logs") {
		volume := map[string]any{"name": name, "emptyDir": map[string]any{}}
		if random.IntN(3) == 0 {
			volume["appMounts"] = []any{map[string]any{
				"mountPath":  oneOf(random, "/data", "/"+name, "/"+name, mostly(random, "/"+name, name)),
				"containers": oneOf(random, []any{}, []any{"web"}, []any{"api"}, []any{"web", "api"}),
			}}
		}
		volumes = append(volumes, volume)
	}
	if rarely() {
		volumes = nil
	}
	spec["containers"], spec["initContainers"], spec["volumes"] = containers, initContainers, volumes
	if rarely() {
		spec["podMetadata"] = map[string]any{
			oneOf(random, "labels", "annotations"): map[string]any{oneOf(random, "team", "sidecarset.io/injected"): "x"},
		}
	}
	if rarely() {
		spec["updateStrategy"] = map[string]any{"canary": map[string]any{"selector": selector()}}
	}
	for key, value := range spec {
		if list, isList := value.([]any); isList && list == nil {
			delete(spec, key)
		}
	}
	return spec
}

func oneOf[T any](random *rand.Rand, values ...T) T {
	return values[random.IntN(len(values))]
}

// mostly is the value 15 times of 16, and else one of the others.
func mostly[T any](random *rand.Rand, value T, others ...T) T {
	if random.IntN(16) > 0 {
		return value
	}
	return oneOf(random, others...)
}
