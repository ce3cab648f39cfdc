// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"errors"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
)

// lookAgain is how long a reconcile waits after a write that was refused because the cache was behind.
const lookAgain = 100 * time.Millisecond

// errLookAgain ends a reconcile after a write that the rest of it has to see first.
var errLookAgain = errors.New("the object was changed, and has to be observed again")

// quietly turns refusals that mean "look again" into a requeue, and returns what else went wrong.
func quietly(err error) (ctrl.Result, error) {
	if err == nil {
		return ctrl.Result{}, nil
	}
	if isStale(err) {
		return ctrl.Result{RequeueAfter: lookAgain}, nil
	}
	return ctrl.Result{}, err
}

// isStale is true when all that went wrong is that the cache was behind.
func isStale(err error) bool {
	if errors.Is(err, errLookAgain) {
		return true
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range joined.Unwrap() {
			if !isStale(err) {
				return false
			}
		}
		return true
	}
	return (apierrors.IsConflict(err) && !isFieldConflict(err)) || apierrors.IsAlreadyExists(err) || isFailedTest(err)
}

// isFailedTest is true when a JSON patch was refused because one of its tests failed. The API server answers 422, as for an object that is
// invalid, but without naming the object (apiserver/pkg/endpoints/handlers/patch.go).
func isFailedTest(err error) bool {
	var status apierrors.APIStatus
	return apierrors.IsInvalid(err) && errors.As(err, &status) && (status.Status().Details == nil || status.Status().Details.Kind == "")
}

// isFieldConflict is true when an apply was refused because another field manager owns a field.
func isFieldConflict(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil {
		return false
	}
	for _, cause := range status.Status().Details.Causes {
		if cause.Type == metav1.CauseTypeFieldManagerConflict {
			return true
		}
	}
	return false
}

// serverWords is what the API server said, without what the client put around it.
func serverWords(err error) string {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return status.Status().Message
	}
	return err.Error()
}

// isRefusal is true when the API server judged what was applied and said no: another manager's field, validation, or admission. To send
// the same again is of no use.
func isRefusal(err error) bool {
	return isFieldConflict(err) || (apierrors.IsInvalid(err) && !isFailedTest(err)) || apierrors.IsBadRequest(err) || apierrors.IsForbidden(err)
}
