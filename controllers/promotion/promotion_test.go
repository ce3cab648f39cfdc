// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package promotion

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var start0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// makeSnapshot is a Deployment of three whose pods all run the new revision: its template and its ReplicaSet are old.
func makeSnapshot() Snapshot {
	return Snapshot{
		Deployment:  Deployment{Observed: true, SpecReplicas: 3, UpdatedReplicas: 3, ReadyReplicas: 3, Template: "old", Application: "app"},
		ReadyPods:   3,
		ReplicaSets: []ReplicaSet{{UID: "earlier", Template: "earliest"}, {UID: "running", Template: "old", SpecReplicas: 3, Replicas: 3}},
		Now:         start0,
	}
}

// begun has a promotion under way, so many seconds old: the Deployment is paused with the new template, and its controller has seen that.
func begun(seconds int) Snapshot {
	snapshot := makeSnapshot()
	snapshot.Deployment.Paused, snapshot.Deployment.Template, snapshot.Deployment.UpdatedReplicas = true, "new", 0
	snapshot.Intent = &Intent{ReplicaSet: "running", Application: "app", From: map[string]string{"set": "set-1"}, StartedAt: start0}
	snapshot.Now = start0.Add(time.Duration(seconds) * time.Second)
	return snapshot
}

// patched has the new template in the ReplicaSet as well.
func patched(seconds int) Snapshot {
	snapshot := begun(seconds)
	snapshot.ReplicaSets[1].Template = "new"
	return snapshot
}

func hasIntent(snapshot *Snapshot) { snapshot.ReplicaSets[1].HasIntent = true }

func hasNoPods(snapshot *Snapshot) {
	snapshot.Deployment.SpecReplicas, snapshot.ReplicaSets[1].SpecReplicas, snapshot.ReplicaSets[1].Replicas = 0, 0, 0
}

func with(snapshot Snapshot, change func(*Snapshot)) Snapshot {
	change(&snapshot)
	return snapshot
}

func TestNext(t *testing.T) {
	for _, test := range []struct {
		name     string
		snapshot Snapshot
		want     Step
	}{
		// The way without disturbance.
		{"1: begin", makeSnapshot(), Step{Action: Begin, ReplicaSet: "running"}},
		{"2: wait for the controller to see the pause", with(begun(1), func(s *Snapshot) { s.Deployment.Observed = false }), Step{Action: Wait, Recheck: 29 * time.Second}},
		{"3: patch the ReplicaSet", begun(1), Step{Action: PatchReplicaSet, ReplicaSet: "running"}},
		{"4: wait for the controller to recognise it", patched(1), Step{Action: Wait, Recheck: 29 * time.Second}},
		{"4: a status from before the pause does not count", with(patched(1), func(s *Snapshot) { s.Deployment.Observed, s.Deployment.UpdatedReplicas = false, 3 }), Step{Action: Wait, Recheck: 29 * time.Second}},
		{"4: also when it has copied the intent, as long as its status is to come", with(patched(1), hasIntent), Step{Action: Wait, Recheck: 29 * time.Second}},
		{"5: finish", with(patched(1), func(s *Snapshot) { s.Deployment.UpdatedReplicas = 3 }), Step{Action: Finish}},

		// Before the beginning.
		{"a controller that is behind is waited for", with(makeSnapshot(), func(s *Snapshot) { s.Deployment.Observed = false }), Step{Action: Wait}},
		{"a controller that has not seen all pods ready is waited for", with(makeSnapshot(), func(s *Snapshot) { s.Deployment.ReadyReplicas = 2 }), Step{Action: Wait}},
		{"an application's pod that is not ready is no hindrance", with(makeSnapshot(), func(s *Snapshot) { s.Deployment.ReadyReplicas, s.ReadyPods = 2, 2 }), Step{Action: Begin, ReplicaSet: "running"}},
		{"a rollout is waited for", with(makeSnapshot(), func(s *Snapshot) { s.ReplicaSets[0].Replicas = 1 }), Step{Action: Wait}},
		{"a template that is not rolled out is waited for", with(makeSnapshot(), func(s *Snapshot) { s.Deployment.Template = "users" }), Step{Action: Wait}},

		// Trap a: twins.
		{"a: an idle older twin is deleted first", with(begun(1), func(s *Snapshot) { s.ReplicaSets[0].Template = "new" }), Step{Action: DeleteTwin, ReplicaSet: "earlier"}},
		{"a: also after the patch", with(patched(1), func(s *Snapshot) { s.ReplicaSets[0].Template = "new" }), Step{Action: DeleteTwin, ReplicaSet: "earlier"}},
		{"a: one with pods is waited for", with(begun(1), func(s *Snapshot) { s.ReplicaSets[0].Template, s.ReplicaSets[0].Replicas = "new", 1 }), Step{Action: Wait, Recheck: 29 * time.Second}},
		{"a: but not for ever", with(begun(30), func(s *Snapshot) { s.ReplicaSets[0].Template, s.ReplicaSets[0].Replicas = "new", 1 }), Step{Action: Undo}},
		{"a: nor after the patch, when no other template fits", with(patched(30), func(s *Snapshot) { s.ReplicaSets[0].Template, s.ReplicaSets[0].Replicas = "new", 1 }), Step{Action: Finish}},
		{"a: a younger twin does no harm", with(begun(1), func(s *Snapshot) { s.ReplicaSets = append(s.ReplicaSets, ReplicaSet{UID: "younger", Template: "new"}) }), Step{Action: PatchReplicaSet, ReplicaSet: "running"}},

		// Trap b: the user goes before.
		{"b: the user changes the template", with(begun(1), func(s *Snapshot) { s.Deployment.Application = "app 2" }), Step{Action: Finish}},
		{"b: the user changes the template after the patch", with(patched(1), func(s *Snapshot) { s.Deployment.Application = "app 2" }), Step{Action: Finish}},
		{"b: the user resumes", with(begun(1), func(s *Snapshot) { s.Deployment.Paused = false }), Step{Action: Finish}},
		{"b: the ReplicaSet is gone", with(begun(1), func(s *Snapshot) { s.ReplicaSets = s.ReplicaSets[:1] }), Step{Action: Finish}},

		// Trap c: no answer.
		{"c: no answer in step 2 is undone", with(begun(30), func(s *Snapshot) { s.Deployment.Observed = false }), Step{Action: Undo}},
		{"c: no answer in step 4 is finished", patched(30), Step{Action: Finish}},
		{"c: step 3 leaves step 4 half of the time", begun(15), Step{Action: PatchReplicaSet, ReplicaSet: "running"}},
		{"c: later it is not taken, since step 4 would hardly wait", begun(16), Step{Action: Wait, Recheck: 14 * time.Second}},
		{"c: but undone, when we were away for long", begun(300), Step{Action: Undo}},

		// Trap d: a journal that nobody can read.
		{"d: an intent that can not be read is ended", with(begun(1), func(s *Snapshot) { s.Intent = ParseIntent("{broken") }), Step{Action: Finish}},

		// Trap e: the user had it paused.
		{"e: a pause of the user's is no hindrance", with(makeSnapshot(), func(s *Snapshot) { s.Deployment.Paused = true }), Step{Action: Begin, ReplicaSet: "running"}},
		{"e: a pause that is declared under way is left to its owner", with(begun(1), func(s *Snapshot) { s.Deployment.PauseIsOurs, s.Deployment.PauseDeclared = true, true }), Step{Action: CedePause}},
		{"e: also when the template changed", with(begun(1), func(s *Snapshot) {
			s.Deployment.PauseIsOurs, s.Deployment.PauseDeclared, s.Deployment.Application = true, true, "app 2"
		}), Step{Action: CedePause}},
		{"e: what was left to its owner is no hindrance", with(begun(1), func(s *Snapshot) { s.Deployment.PauseDeclared = true }), Step{Action: PatchReplicaSet, ReplicaSet: "running"}},
		{"e: one that was declared before may have been resumed since", with(begun(1), func(s *Snapshot) {
			s.Deployment.PauseIsOurs, s.Deployment.PauseDeclared, s.Intent.PauseDeclared = true, true, true
		}), Step{Action: PatchReplicaSet, ReplicaSet: "running"}},
		{"e: one that is declared and resumed under way is over", with(begun(1), func(s *Snapshot) {
			s.Deployment.Paused, s.Deployment.PauseDeclared = false, true
		}), Step{Action: Finish}},

		// Trap f: no pods.
		{"f: without replicas the template is applied", with(makeSnapshot(), func(s *Snapshot) { s.Deployment.SpecReplicas = 0 }), Step{Action: ApplyPlainly}},
		{"f: paused before it had any, the template is applied", with(makeSnapshot(), func(s *Snapshot) { s.Deployment.Paused, s.ReplicaSets = true, nil }), Step{Action: ApplyPlainly}},
		{"f: pods that are to come are waited for", with(makeSnapshot(), func(s *Snapshot) { s.ReplicaSets = nil }), Step{Action: Wait}},

		// Scaling under way.
		{"scaled in the middle", with(patched(1), func(s *Snapshot) {
			s.Deployment.SpecReplicas, s.Deployment.UpdatedReplicas, s.ReplicaSets[1].SpecReplicas, s.ReplicaSets[1].Replicas = 5, 4, 5, 4
		}), Step{Action: Finish}},
		{"scaled to nothing before it was recognised", with(patched(1), hasNoPods), Step{Action: Wait, Recheck: 29 * time.Second}},
		{"scaled to nothing", with(with(patched(1), hasNoPods), hasIntent), Step{Action: Finish}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := Next(test.snapshot)
			if got.Reason == "" {
				t.Error("no reason")
			}
			got.Reason = ""
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("step (-want +got):\n%s", diff)
			}
		})
	}
}

func TestIntentIsAJournal(t *testing.T) {
	intent := begun(0).Intent
	if diff := cmp.Diff(intent, ParseIntent(intent.Encode())); diff != "" {
		t.Errorf("what was written does not come back (-want +got):\n%s", diff)
	}
	if ParseIntent("") != nil {
		t.Error("there is an intent without an annotation")
	}
}
