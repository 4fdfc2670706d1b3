//go:build tools

// Package localpath names the storage provisioner, so that go.mod and go.sum cover it.
package localpath

import (
	_ "github.com/rancher/local-path-provisioner"
)
