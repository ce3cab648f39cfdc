// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/sidecarset/sidecarset/controllers/injection"
)

// TestJudgeOnce has two workloads come with the same change while the API server has not answered the first of them yet.
func TestJudgeOnce(t *testing.T) {
	refusal := apierrors.NewForbidden(appsv1.Resource("deployments"), "first", errors.New("of a label that it has"))
	for name, test := range map[string]struct {
		change podChange
		// before is how many of two are asked about at first, answer what the API server says of the first, and after how many are asked about in
		// the end.
		before int
		answer error
		after  int
	}{
		"a change that is accepted":             {podChange{"shop", "agent-1", "agent-2"}, 1, nil, 1},
		"a change that is refused for somebody": {podChange{"shop", "agent-1", "agent-2"}, 1, refusal, 2},
		"a change that is not a common one":     {podChange{}, 2, nil, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked := make(chan chan<- error, 2)
				r := &deploymentReconciler{now: time.Now, writer: &writer{client: interceptor.NewClient(nil, interceptor.Funcs{
					Apply: func(context.Context, client.WithWatch, runtime.ApplyConfiguration, ...client.ApplyOption) error {
						answer := make(chan error)
						asked <- answer
						return <-answer
					},
				})}}
				results := make(chan error, 2)
				for range 2 {
					go func() {
						observed := &workloadObservation{
							deployment: &appsv1.Deployment{},
							workload:   injection.Workload{Template: &corev1.PodTemplateSpec{}},
						}
						results <- r.judgeOnce(t.Context(), observed, &injection.Plan{}, inRunningPods, test.change)
					}()
				}
				synctest.Wait()
				if got := len(asked); got != test.before {
					t.Errorf("%d are asked about at first, want %d", got, test.before)
				}
				(<-asked) <- test.answer
				if got := <-results; !errors.Is(got, test.answer) {
					t.Errorf("the first gets %v, want %v", got, test.answer)
				}
				for range test.after - 1 {
					(<-asked) <- nil
				}
				if err := <-results; err != nil {
					t.Errorf("the other gets %v", err)
				}
				synctest.Wait()
				if got := len(asked); got != 0 {
					t.Errorf("%d more are asked about", got)
				}
			})
		})
	}
}
