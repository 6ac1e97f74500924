//go:build goexperiment.runtimesecret && linux && (arm64 || (amd64 && !cgo))

package securemem

import "runtime/secret"

func do(f func()) { secret.Do(f) }
