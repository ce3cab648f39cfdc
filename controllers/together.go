// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import "golang.org/x/sync/errgroup"

// together calls do for 0 up to count, so many at a time at most, and returns what each call returned. None of them stops the others.
func together(count, atATime int, do func(i int) error) []error {
	errs := make([]error, count)
	var group errgroup.Group
	group.SetLimit(atATime)
	for i := range errs {
		group.Go(func() error {
			errs[i] = do(i)
			return nil
		})
	}
	_ = group.Wait() // what goes wrong is in errs.
	return errs
}
