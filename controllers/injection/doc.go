// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

// Package injection decides what a workload's pod template has to hold for the sets that are assigned to it. It is pure: a
// function from the template, what we own in it, and the sets' revisions to one server-side apply configuration.
//
// # Vocabulary
//
//   - content: everything of a set that is rendered. Its hash names the revision.
//   - application: what stands in the template and is not ours. An item (container, volume, mount) is ours when our field manager owns it.
//   - marks: the label and annotations with which a rendered template tells what it holds.
//   - hint: an application's item named in the configuration only to fix the order; a claim is what the API server then credits us with.
//   - held: a set whose part of the template has to stay as it is, because the set is paused or the API server refused it.
//
// # Algorithm
//
//  1. Sets are taken from the oldest to the youngest.
//  2. A set that collides with the application or with an older set, or that names an application container that is not there, is left
//     out whole, with a problem that names the other side. What is the application's is never overwritten.
//  3. What remains is put together into one configuration of the template: init containers in front, containers behind, volumes, mounts in
//     application containers, pull secrets, metadata, marks.
//  4. If the template already holds the configuration, and we own exactly what it says, there is nothing to write.
//
// # Order
//
// The API server appends the new items of an apply configuration to a list. To stand before the application's init containers we
// name those behind ours, as hints. An item in an application container needs the container's name for the same reason. Both give us
// claims that we must not keep: someone who later removes the container by apply would be refused, because our claim keeps a
// container without an image. Plan.Keep is what our field manager may own; the writer hands the rest back.
package injection
