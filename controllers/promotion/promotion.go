// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

// Package promotion lets a Deployment's template follow its pods: after an in-place update every pod runs the new revision, and the template
// has to say so without a rollout. It is pure: a state machine from what was observed to the next step.
//
// A changed template normally makes a new ReplicaSet. It does not if the ReplicaSet that is running has that very template
// (pkg/controller/deployment/util, FindNewReplicaSet and EqualIgnoreHash in Kubernetes). So:
//
//  1. Begin: write the new template, a pause, and the intent, in one write. A paused Deployment never creates a ReplicaSet.
//  2. Wait until the Deployment controller has observed that. Until then it may still compare the old, unpaused Deployment with the
//     ReplicaSet, and would replace every pod after step 3.
//  3. PatchReplicaSet: give the running ReplicaSet the new template. An idle older ReplicaSet that has it already is deleted before
//     (DeleteTwin): the controller takes the oldest equal one for the current one.
//  4. Wait until the controller recognised it: status.updatedReplicas counts its pods. When it has none, that says nothing, and it is the
//     intent that tells, which the controller copies to it as all annotations of a Deployment (copyDeploymentAnnotationsToReplicaSet).
//     Deployments and ReplicaSets reach the controller by different watches, with no order between them.
//  5. Finish: take back the pause and the intent.
//
// The intent annotation is the journal. Whoever reconciles next continues from what is there; nothing is remembered.
//
// The user goes before. When the template changes under way, or somebody resumes the Deployment, the promotion is over: Finish, and the
// rollout runs. A pause of the user's own stays, because it is another manager's field. One that a client-side apply declares under way is
// not: kubectl sends nothing for a field that has the value already. It is seen in what kubectl records of the manifest (CedePause).
//
// When the controller does not answer in time, step 2 is undone (the ReplicaSet was not touched, so the old template fits), and step 4 is
// finished: template, ReplicaSet and pods agree already, so that a controller that starts later finds nothing to do. Step 3 is not taken when
// step 4 would have too little time left to wait in, because we were away ourselves, say; it is undone like step 2, and all begins anew.
//
// docs/promotion.md tells of a model of this that was searched for everything that can go wrong.
package promotion

import (
	"encoding/json"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Deadline is how long a Deployment stays paused at most while the Deployment controller does not answer.
const Deadline = 30 * time.Second

// patience is how long step 4 waits at least for the Deployment controller, and how long our own cache has to show us what step 3 wrote.
const patience = Deadline / 2

// Intent is what a promotion under way sets out to do.
type Intent struct {
	// ReplicaSet is the one that is running.
	ReplicaSet types.UID `json:"replicaSet"`
	// Application identifies what the template holds besides the fields that are promoted; when it changes, the user changed it.
	Application string `json:"application"`
	// From are the revisions that the template had before, by set.
	From map[string]string `json:"from"`
	// PauseDeclared is true when the Deployment was declared to be paused before already, and maybe resumed since.
	PauseDeclared bool `json:"pauseDeclared,omitempty"`
	// StartedAt is when the Deployment was paused.
	StartedAt time.Time `json:"startedAt"`
}

// ParseIntent reads the annotation of a promotion. It returns nil for an empty one, and an Intent that fits nothing for one that can not be
// read, so that whatever was under way is ended.
func ParseIntent(annotation string) *Intent {
	if annotation == "" {
		return nil
	}
	intent := &Intent{}
	if json.Unmarshal([]byte(annotation), intent) != nil {
		return &Intent{}
	}
	return intent
}

// Encode is the inverse of ParseIntent.
func (i *Intent) Encode() string {
	data, _ := json.Marshal(i) // strings and a time can always be encoded.
	return string(data)
}

// Deployment is what is decided from.
type Deployment struct {
	// Observed is true when its controller has seen its generation.
	Observed bool
	Paused   bool
	// PauseIsOurs is true while the pause is one of our fields, and PauseDeclared when its owner's last client-side apply declares one.
	PauseIsOurs, PauseDeclared bool
	// SpecReplicas are wanted; UpdatedReplicas are those that its controller counts to the current ReplicaSet, and ReadyReplicas those that it
	// knows to be ready.
	SpecReplicas, UpdatedReplicas, ReadyReplicas int32
	// Template identifies the whole template, Application the part that a promotion does not change.
	Template, Application string
}

// ReplicaSet is what is decided from. A snapshot has them oldest first.
type ReplicaSet struct {
	UID types.UID
	// Template identifies its template as Deployment.Template does.
	Template string
	// SpecReplicas are wanted, Replicas are there.
	SpecReplicas, Replicas int32
	// HasIntent is true when the Deployment controller has copied the intent to it.
	HasIntent bool
}

// Snapshot is all that is decided from.
type Snapshot struct {
	Deployment  Deployment
	ReplicaSets []ReplicaSet
	// ReadyPods are those of its pods that are ready.
	ReadyPods int32
	// Intent is nil when no promotion is under way.
	Intent *Intent
	Now    time.Time
}

// Action is a step of a promotion.
type Action string

// The actions, in the order of the steps.
const (
	// Wait: nothing can be done before something else happens.
	Wait Action = "Wait"
	// ApplyPlainly: there are no pods, so that the template can be written without more ado.
	ApplyPlainly Action = "ApplyPlainly"
	// Begin is step 1.
	Begin Action = "Begin"
	// DeleteTwin deletes an idle ReplicaSet that would be taken for the current one.
	DeleteTwin Action = "DeleteTwin"
	// PatchReplicaSet is step 3.
	PatchReplicaSet Action = "PatchReplicaSet"
	// CedePause leaves the pause to the Deployment's owner, who declared one under way.
	CedePause Action = "CedePause"
	// Finish is step 5, or the end of a promotion that the user overtook.
	Finish Action = "Finish"
	// Undo puts the old template back and takes back the pause.
	Undo Action = "Undo"
)

// Step is what to do next.
type Step struct {
	Action Action
	// ReplicaSet is the one to patch, to delete, or to begin with.
	ReplicaSet types.UID
	// Reason says why, for logs.
	Reason string
	// Recheck is after how long time alone changes the answer; zero when it does not.
	Recheck time.Duration
}

// Next returns the next step. Without an intent it is asked only when every pod is available at the new revision, or there is none.
func Next(snapshot Snapshot) Step {
	if snapshot.Intent == nil {
		return start(snapshot)
	}
	return proceed(snapshot)
}

func start(snapshot Snapshot) Step {
	deployment := snapshot.Deployment
	switch {
	case deployment.SpecReplicas == 0:
		return Step{Action: ApplyPlainly, Reason: "there are no pods"}
	case !deployment.Observed:
		return Step{Action: Wait, Reason: "the Deployment controller has not seen the Deployment as it is"}
	}
	var running []ReplicaSet
	for _, rs := range snapshot.ReplicaSets {
		if rs.SpecReplicas > 0 || rs.Replicas > 0 {
			running = append(running, rs)
		}
	}
	if len(running) == 0 && deployment.Paused {
		return Step{Action: ApplyPlainly, Reason: "there are no pods, and a pause keeps it so"}
	}
	if len(running) != 1 || running[0].Template != deployment.Template {
		return Step{Action: Wait, Reason: "the Deployment is rolling out"}
	}
	if deployment.ReadyReplicas != snapshot.ReadyPods {
		// It is about to write its status, and would have ours refused.
		return Step{Action: Wait, Reason: "the Deployment controller has not seen the pods as they are"}
	}
	return Step{Action: Begin, ReplicaSet: running[0].UID, Reason: "every pod runs the new revision"}
}

func proceed(snapshot Snapshot) Step {
	deployment, intent := snapshot.Deployment, snapshot.Intent
	current := find(snapshot.ReplicaSets, intent.ReplicaSet)
	switch {
	case deployment.Paused && deployment.PauseIsOurs && deployment.PauseDeclared && !intent.PauseDeclared:
		return Step{Action: CedePause, Reason: "the Deployment was declared to be paused under way"}
	case current == nil:
		return Step{Action: Finish, Reason: "the ReplicaSet is gone"}
	case deployment.Application != intent.Application:
		return Step{Action: Finish, Reason: "the template was changed under way"}
	case !deployment.Paused:
		return Step{Action: Finish, Reason: "the Deployment was resumed under way"}
	}
	return proceedPaused(snapshot, current)
}

// proceedPaused takes the steps of a promotion that nobody ended.
func proceedPaused(snapshot Snapshot, current *ReplicaSet) Step {
	deployment, intent := snapshot.Deployment, snapshot.Intent
	remaining := intent.StartedAt.Add(Deadline).Sub(snapshot.Now)
	untouched := current.Template != deployment.Template
	switch {
	case untouched && remaining <= 0:
		return Step{Action: Undo, Reason: "the Deployment controller did not answer in time"}
	case untouched && !deployment.Observed:
		return Step{Action: Wait, Reason: "the Deployment controller has not seen the pause", Recheck: remaining}
	}
	if twin := olderTwin(snapshot.ReplicaSets, current, deployment.Template); twin != nil {
		return untwine(twin, remaining)
	}
	switch {
	case untouched && remaining < patience:
		return Step{Action: Wait, Reason: "too little time is left to change the ReplicaSet", Recheck: remaining}
	case untouched:
		return Step{Action: PatchReplicaSet, ReplicaSet: current.UID, Reason: "the Deployment controller has seen the pause"}
	case deployment.Observed && deployment.UpdatedReplicas == current.Replicas && (current.Replicas > 0 || current.HasIntent):
		return Step{Action: Finish, Reason: "the Deployment controller has recognised the ReplicaSet"}
	case remaining <= 0:
		return Step{Action: Finish, Reason: "the Deployment controller does not answer, and has nothing left to do"}
	}
	return Step{Action: Wait, Reason: "the Deployment controller has not recognised the ReplicaSet", Recheck: remaining}
}

// untwine deals with an older ReplicaSet that has the new template. One that has pods means that the user's rollout is under way.
func untwine(twin *ReplicaSet, remaining time.Duration) Step {
	switch {
	case twin.SpecReplicas == 0 && twin.Replicas == 0:
		return Step{Action: DeleteTwin, ReplicaSet: twin.UID, Reason: "an idle ReplicaSet has the new template"}
	case remaining <= 0:
		return Step{Action: Finish, Reason: "another ReplicaSet with the new template has pods"}
	}
	return Step{Action: Wait, Reason: "another ReplicaSet with the new template has pods", Recheck: remaining}
}

func find(replicaSets []ReplicaSet, uid types.UID) *ReplicaSet {
	for i := range replicaSets {
		if replicaSets[i].UID == uid {
			return &replicaSets[i]
		}
	}
	return nil
}

// olderTwin returns the oldest other ReplicaSet with a template: the one that the Deployment controller would take for the current one.
func olderTwin(replicaSets []ReplicaSet, current *ReplicaSet, template string) *ReplicaSet {
	for i := range replicaSets {
		if replicaSets[i].UID == current.UID {
			return nil
		}
		if replicaSets[i].Template == template {
			return &replicaSets[i]
		}
	}
	return nil
}
