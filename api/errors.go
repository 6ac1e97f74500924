package api

import (
	"errors"
	"fmt"
	"time"
)

// Kind is what went wrong, as the name of an AWS exception. The list is closed
// and its numbers are frozen: they stand in replies and in audit records.
type Kind uint8

// The kinds. New ones go to the end.
const (
	KindNone Kind = iota
	KindInternal
	KindValidation
	KindSerialization
	KindUnknownOperation
	KindAccessDenied
	KindThrottling
	KindUnrecognizedClient
	KindUnavailable
	KindNotFound
	KindDisabled
	KindInvalidState
	KindInvalidKeyUsage
	KindInvalidCiphertext
	KindIncorrectKey
	KindInvalidArn
	KindInvalidGrantToken
	KindDryRun
	KindUnsupportedOperation
	KindMalformedPolicyDocument
	KindTag
	KindLimitExceeded
	KindKeyUnavailable
	KindRequestTooLarge
	KindRequestTimeout
	KindAlreadyExists
	KindNotAuthorized
	KindInvalidMarker
	KindInvalidMac
	KindInvalidSignature
	KindConflict
	KindInvalidImportToken
	KindExpiredImportToken
	KindIncorrectKeyMaterial
	KindCustomKeyStoreNotFound
	kindEnd
)

// kinds holds a row a kind: AWS's name, whether the appliance is at fault, and
// whether the same call may succeed a moment later.
var kinds = [kindEnd]struct {
	name   string
	server bool
	retry  bool
}{
	KindNone:                    {"", false, false},
	KindInternal:                {"KMSInternalException", true, false},
	KindValidation:              {"ValidationException", false, false},
	KindSerialization:           {"SerializationException", false, false},
	KindUnknownOperation:        {"UnknownOperationException", false, false},
	KindAccessDenied:            {"AccessDeniedException", false, false},
	KindThrottling:              {"ThrottlingException", false, true},
	KindUnrecognizedClient:      {"UnrecognizedClientException", false, false},
	KindUnavailable:             {"ServiceUnavailableException", true, true},
	KindNotFound:                {"NotFoundException", false, false},
	KindDisabled:                {"DisabledException", false, false},
	KindInvalidState:            {"KMSInvalidStateException", false, false},
	KindInvalidKeyUsage:         {"InvalidKeyUsageException", false, false},
	KindInvalidCiphertext:       {"InvalidCiphertextException", false, false},
	KindIncorrectKey:            {"IncorrectKeyException", false, false},
	KindInvalidArn:              {"InvalidArnException", false, false},
	KindInvalidGrantToken:       {"InvalidGrantTokenException", false, false},
	KindDryRun:                  {"DryRunOperationException", false, false},
	KindUnsupportedOperation:    {"UnsupportedOperationException", false, false},
	KindMalformedPolicyDocument: {"MalformedPolicyDocumentException", false, false},
	KindTag:                     {"TagException", false, false},
	KindLimitExceeded:           {"LimitExceededException", false, false},
	KindKeyUnavailable:          {"KeyUnavailableException", true, true},
	KindRequestTooLarge:         {"RequestEntityTooLargeException", false, false},
	KindRequestTimeout:          {"RequestTimeoutException", false, false},
	KindAlreadyExists:           {"AlreadyExistsException", false, false},
	KindNotAuthorized:           {"NotAuthorizedException", false, false},
	KindInvalidMarker:           {"InvalidMarkerException", false, false},
	KindInvalidMac:              {"KMSInvalidMacException", false, false},
	KindInvalidSignature:        {"KMSInvalidSignatureException", false, false},
	KindConflict:                {"ConflictException", false, false},
	KindInvalidImportToken:      {"InvalidImportTokenException", false, false},
	KindExpiredImportToken:      {"ExpiredImportTokenException", false, false},
	KindIncorrectKeyMaterial:    {"IncorrectKeyMaterialException", false, false},
	KindCustomKeyStoreNotFound:  {"CustomKeyStoreNotFoundException", false, false},
}

// Kinds returns all kinds but KindNone in the order of their numbers.
func Kinds() []Kind {
	all := make([]Kind, 0, kindEnd-1)
	for k := KindInternal; k < kindEnd; k++ {
		all = append(all, k)
	}
	return all
}

// Valid reports whether k is a kind of error of this version.
func (k Kind) Valid() bool { return k > KindNone && k < kindEnd }

// String returns AWS's exception name, or "Kind(n)" for a number of a later version.
func (k Kind) String() string {
	if k < kindEnd {
		return kinds[k].name
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Server reports whether the appliance is at fault (HTTP 500), not the caller.
func (k Kind) Server() bool { return k < kindEnd && kinds[k].server }

// Retryable reports whether the same call may succeed later without a change.
func (k Kind) Retryable() bool { return k < kindEnd && kinds[k].retry }

// Error is what an operation answers when it does not succeed. Message and
// Reason go to the caller and into the audit record: they name what was wrong
// and what to do, and never hold a secret or a value of a Secret member.
type Error struct {
	Kind       Kind
	Message    string
	Reason     string        // a stable word for programs where Kind alone is not enough ("locked")
	RetryAfter time.Duration // Retryable kinds: not before; 0 = the caller's own backoff
	Err        error         // the cause, for the log only; never sent
}

// Error returns the kind and the message.
func (e *Error) Error() string {
	if e.Message == "" {
		return e.Kind.String()
	}
	return e.Kind.String() + ": " + e.Message
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is an *Error of the same kind, so that
// errors.Is(err, &api.Error{Kind: k}) asks for a kind.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Kind == e.Kind && t.Message == ""
}

// Errorf makes an Error of a kind with a message for the caller.
func Errorf(k Kind, format string, args ...any) *Error {
	return &Error{Kind: k, Message: fmt.Sprintf(format, args...)}
}

// Internal wraps a cause that is nobody's business but the operator's: the
// caller learns only that the appliance failed.
func Internal(err error) *Error {
	return &Error{Kind: KindInternal, Message: "the appliance could not complete the request; its log says why", Err: err}
}

// AsError returns err as an *Error; any other error becomes [Internal].
// It returns nil for nil.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return Internal(err)
}

// KindOf returns the kind of err: KindNone for nil, KindInternal for an error
// that is not an *Error.
func KindOf(err error) Kind {
	if err == nil {
		return KindNone
	}
	return AsError(err).Kind
}
