//go:build tools

// Package tools pins the Pulumi command line, which the tests build from its published Go module.
package tools

import _ "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi"
