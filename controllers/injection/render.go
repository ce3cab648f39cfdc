// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package injection

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
	"sigs.k8s.io/structured-merge-diff/v6/value"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

// Plan is what a workload's template has to hold.
type Plan struct {
	// Template is the apply configuration of .spec.template; nil when nothing of ours is to stay.
	Template map[string]any
	// Changed is false when the template holds it already and we own exactly Keep: there is nothing to write.
	Changed bool
	// InPlace is true when nothing changes but what can be changed in running pods.
	InPlace bool
	// holds is true when the template holds it, whoever owns it.
	holds bool
	// Claims is true when applying Template credits us with fields beyond Keep, which have to be handed back.
	Claims bool
	// Keep is what our field manager is to own.
	Keep *fieldpath.Set
	// Revisions are the rendered revisions by set, as the marks will name them.
	Revisions map[string]string
	// Problems are the sets that are left out, or held by the caller for a reason of its own.
	Problems map[string]Problem
}

// AsIs is the plan that leaves everything that we own in a template as it is.
func (r *Renderer) AsIs(workload Workload) (*Plan, error) {
	live, err := r.schema.live(workload.Template)
	if err != nil {
		return nil, fmt.Errorf("keeping %s: %w", workload.Name, err)
	}
	plan := &Plan{Revisions: Revisions(workload.Template.Annotations[v1alpha1.RevisionsAnnotation])}
	if _, err := r.compare(plan, ownedTemplate(live, workload.Owned), applicationOf(&workload), workload.Owned, live); err != nil {
		return nil, fmt.Errorf("keeping %s: %w", workload.Name, err)
	}
	return plan, nil
}

// KeepWithout returns what our field manager is to own when one set's content is left to the workload's owner. With no
// other set in the template it is nothing: the marks are left, too, so that no pod is replaced.
func (r *Renderer) KeepWithout(workload Workload, key string) (*fieldpath.Set, error) {
	live, err := r.schema.live(workload.Template)
	if err != nil {
		return nil, fmt.Errorf("releasing %s: %w", workload.Name, err)
	}
	others := Revisions(workload.Template.Annotations[v1alpha1.RevisionsAnnotation])
	delete(others, key)
	if len(others) == 0 {
		return fieldpath.NewSet(), nil
	}
	left := hold(&Set{Key: key}, workload, ownedTemplate(live, workload.Owned))
	config, err := r.schema.config(configuration([]*part{left}, applicationOf(&workload)))
	if err != nil {
		return nil, fmt.Errorf("releasing %s: %w", workload.Name, err)
	}
	fields, err := fieldsOf(config)
	if err != nil {
		return nil, fmt.Errorf("releasing %s: %w", workload.Name, err)
	}
	return workload.Owned.fields.Difference(fields), nil
}

// Holds is true when the template holds a plan already, so that a write would only claim it.
func (p *Plan) Holds() bool { return p.holds }

// Renderer renders sets into templates. It is safe for concurrent use.
type Renderer struct {
	schema schema
}

// NewRenderer returns a Renderer that merges like the API server of the Kubernetes version that this module is built with.
func NewRenderer() *Renderer {
	return &Renderer{schema: newSchema()}
}

// Render decides what a workload's template has to hold for the sets that are assigned to it. An error means that the template
// can not be read by its schema, which no API server lets happen.
func (r *Renderer) Render(workload Workload, sets []Set) (*Plan, error) {
	live, err := r.schema.live(workload.Template)
	if err != nil {
		return nil, fmt.Errorf("rendering %s: %w", workload.Name, err)
	}
	app := applicationOf(&workload)
	plan := &Plan{Revisions: map[string]string{}, Problems: map[string]Problem{}}
	accepted := r.accept(plan, workload, sets, app, live)
	merged, err := r.compare(plan, markedConfiguration(accepted, plan.Revisions, app), app, workload.Owned, live)
	if err != nil {
		return nil, fmt.Errorf("rendering %s: %w", workload.Name, err)
	}
	plan.InPlace = plan.Changed && !plan.holds && isInPlace(workload.Template, merged, pruned(workload.Owned, plan, app))
	return plan, nil
}

// pruned are the fields that applying a plan takes out of the template. Claims that a crash left behind are none: they are only given up.
func pruned(owned Ownership, plan *Plan, app *application) *fieldpath.Set {
	var claims []fieldpath.Path
	for _, container := range app.containers {
		claims = append(claims, keyClaims("containers", container)...)
	}
	for _, container := range app.initContainers {
		claims = append(claims, keyClaims("initContainers", container)...)
	}
	return owned.fields.Difference(plan.Keep).Difference(fieldpath.NewSet(claims...))
}

// accept returns the parts of the sets that fit, in the order of their age. Held sets keep what they have, even against older ones.
func (r *Renderer) accept(plan *Plan, workload Workload, sets []Set, app *application, live *typed.TypedValue) []*part {
	byAge := oldestFirst(sets)
	fitted := make([]*part, len(byAge))
	for _, held := range []bool{true, false} {
		for i := range byAge {
			if byAge[i].Held != held {
				continue
			}
			part, problem := r.fit(&byAge[i], workload, app, fitted, live)
			switch {
			case problem != nil:
				plan.Problems[byAge[i].Key] = *problem
			case !part.empty():
				fitted[i] = part
				if part.revision != "" {
					plan.Revisions[part.set] = part.revision
				}
			}
		}
	}
	return slices.DeleteFunc(fitted, func(part *part) bool { return part == nil })
}

// Past returns the fields that the revisions render which the marks name and which are known, when the template holds just that: whoever owns
// it, nobody has changed it. It returns nil when somebody has. The marks themselves are not among them.
func (r *Renderer) Past(workload Workload, sets []Set) (*fieldpath.Set, error) {
	live, err := r.schema.live(workload.Template)
	if err != nil {
		return nil, fmt.Errorf("looking back at %s: %w", workload.Name, err)
	}
	plan := &Plan{Revisions: map[string]string{}, Problems: map[string]Problem{}}
	app := applicationWithout(&workload)
	accepted := r.accept(plan, workload, marked(workload, sets), app, live)
	if len(accepted) == 0 || len(plan.Problems) > 0 {
		return nil, nil
	}
	if _, err := r.compare(plan, configuration(accepted, app), app, workload.Owned, live); err != nil {
		return nil, fmt.Errorf("looking back at %s: %w", workload.Name, err)
	}
	if !plan.holds {
		return nil, nil
	}
	return plan.Keep, nil
}

// marked returns the sets at the revisions that the marks name.
func marked(workload Workload, sets []Set) []Set {
	var result []Set
	for key, revision := range Revisions(workload.Template.Annotations[v1alpha1.RevisionsAnnotation]) {
		content, known := workload.Rendered[key]
		if !known {
			continue
		}
		set := Set{Key: key, Revision: revision, Content: content}
		for i := range sets {
			if sets[i].Key == key {
				set.CreatedAt = sets[i].CreatedAt
			}
		}
		result = append(result, set)
	}
	return result
}

// fit builds the part of a set, or says why it has to be left out. rivals are the parts that were accepted before; some are nil.
func (r *Renderer) fit(set *Set, workload Workload, app *application, rivals []*part, live *typed.TypedValue) (fitted *part, problem *Problem) {
	if set.Held {
		fitted = hold(set, workload, ownedTemplate(live, workload.Owned))
	} else if fitted, problem = r.renderBeside(set, app); problem != nil {
		return nil, problem
	}
	for _, rival := range rivals {
		if rival == nil {
			continue
		}
		if problem := fitted.collidesWith(rival); problem != nil {
			return nil, problem
		}
	}
	return fitted, nil
}

// renderBeside renders a set for an application that it does not collide with, into something that its schema allows.
func (r *Renderer) renderBeside(set *Set, app *application) (*part, *Problem) {
	rendered, problem := render(set, app)
	if problem != nil {
		return nil, problem
	}
	if problem := rendered.collidesWithApplication(app); problem != nil {
		return nil, problem
	}
	if _, err := r.schema.config(configuration([]*part{rendered}, app)); err != nil {
		return nil, impossible("%v", err)
	}
	return rendered, nil
}

// configuration puts the parts together into the apply configuration of a template. The application's containers that get mounts are
// named in their own order: the API server would bring them into the order of the configuration.
func configuration(parts []*part, app *application) tree {
	union := union(parts)
	spec := tree{}
	setList(spec, "initContainers", union.initContainers)
	var mounted []tree
	for _, container := range app.containers {
		if mounts := union.mounts[container.Name]; len(mounts) > 0 {
			item := tree{"name": container.Name}
			setList(item, "volumeMounts", mounts)
			mounted = append(mounted, item)
		}
	}
	setList(spec, "containers", append(mounted, union.containers...))
	setList(spec, "volumes", union.volumes)
	setList(spec, "imagePullSecrets", union.pullSecrets)

	metadata := tree{}
	setObject(metadata, "labels", toTreeOfStrings(union.labels))
	setObject(metadata, "annotations", toTreeOfStrings(union.annotations))
	template := tree{}
	setObject(template, "metadata", metadata)
	setObject(template, "spec", spec)
	return template
}

// markedConfiguration is the configuration of the accepted parts with our marks: nil when there are none.
func markedConfiguration(parts []*part, revisions map[string]string, app *application) tree {
	if len(parts) == 0 {
		return nil
	}
	marks := &part{
		labels:      map[string]string{v1alpha1.InjectedLabel: "true"},
		annotations: map[string]string{v1alpha1.RevisionsAnnotation: EncodeRevisions(revisions)},
	}
	if sidecars := union(parts).sidecars; len(sidecars) > 0 {
		marks.annotations[v1alpha1.ContainersAnnotation] = strings.Join(slices.Sorted(slices.Values(sidecars)), ",")
	}
	return configuration(append(slices.Clone(parts), marks), app)
}

// union adds the parts up. They do not collide; what they may share (pull secrets, equal metadata) is in it once.
func union(parts []*part) *part {
	result := &part{mounts: map[string][]tree{}, labels: map[string]string{}, annotations: map[string]string{}}
	for _, part := range parts {
		result.initContainers = append(result.initContainers, part.initContainers...)
		result.containers = append(result.containers, part.containers...)
		result.volumes = append(result.volumes, part.volumes...)
		result.sidecars = append(result.sidecars, part.sidecars...)
		for _, secret := range part.pullSecrets {
			if _, shared := sharedName([]tree{secret}, result.pullSecrets); !shared {
				result.pullSecrets = append(result.pullSecrets, secret)
			}
		}
		for container, mounts := range part.mounts {
			result.mounts[container] = append(result.mounts[container], mounts...)
		}
		maps.Copy(result.labels, part.labels)
		maps.Copy(result.annotations, part.annotations)
	}
	return result
}

// compare completes a plan: it adds hints where the order needs them, and tells whether there is anything to write. merged is what the
// template would be, before what we do not apply any more is pruned.
func (r *Renderer) compare(plan *Plan, template tree, app *application, owned Ownership, live *typed.TypedValue) (merged *typed.TypedValue, err error) {
	config, merged, err := r.merge(template, live)
	if err != nil {
		return nil, err
	}
	claims := mountClaims(template, app)
	if template != nil && !standInFront(items(object(template, "spec"), "initContainers"), merged) {
		claims = append(claims, addHints(object(template, "spec"), app)...)
		if config, merged, err = r.merge(template, live); err != nil {
			return nil, err
		}
	}
	fields, err := fieldsOf(config)
	if err != nil {
		return nil, err
	}
	plan.Template = template
	plan.Claims = len(claims) > 0
	plan.Keep = fields.Difference(fieldpath.NewSet(claims...))
	plan.holds = value.Equals(live.AsValue(), merged.AsValue())
	plan.Changed = !plan.holds || !owned.fields.Leaves().Equals(plan.Keep.Leaves())
	return merged, nil
}

func (r *Renderer) merge(template tree, live *typed.TypedValue) (config, merged *typed.TypedValue, err error) {
	if config, err = r.schema.config(template); err != nil {
		return nil, nil, err
	}
	if merged, err = live.Merge(config); err != nil {
		return nil, nil, fmt.Errorf("merging the apply configuration: %w", err)
	}
	return config, merged, nil
}

// standInFront is true when our init containers are the first ones of the merged template, in their order.
func standInFront(ours []tree, merged *typed.TypedValue) bool {
	deployment, _ := merged.AsValue().Unstructured().(tree)
	all := items(object(object(object(deployment, "spec"), "template"), "spec"), "initContainers")
	for i, container := range ours {
		if str(all[i], "name") != str(container, "name") {
			return false
		}
	}
	return true
}

// addHints names the application's init containers behind ours, and returns the claims that this makes.
func addHints(spec tree, app *application) []fieldpath.Path {
	list := items(spec, "initContainers")
	var claims []fieldpath.Path
	for _, container := range app.initContainers {
		list = append(list, tree{"name": container.Name})
		claims = append(claims, keyClaims("initContainers", container)...)
	}
	setList(spec, "initContainers", list)
	return claims
}

// mountClaims are the claims on application containers that mounts in them make.
func mountClaims(template tree, app *application) []fieldpath.Path {
	var claims []fieldpath.Path
	for _, item := range items(object(template, "spec"), "containers") {
		if container := app.container(str(item, "name")); container != nil {
			claims = append(claims, keyClaims("containers", container)...)
		}
	}
	return claims
}

func keyClaims(list string, container *corev1.Container) []fieldpath.Path {
	return []fieldpath.Path{templatePath(list, byName(container.Name)), templatePath(list, byName(container.Name), "name")}
}

func toTreeOfStrings(values map[string]string) tree {
	result := tree{}
	for key, value := range values {
		result[key] = value
	}
	return result
}
