// Package tlog is the Merkle tree of the audit log: the hashes and proofs of RFC 6962, and
// checkpoints as C2SP signed notes.
//
// Read first: [Frontier], which grows a tree in constant memory; [Checkpoint], what a log signs
// about its tree; and [NodeFunc], from which [ProveInclusion] and [ProveConsistency] take the
// hashes that they need. The checks of the other side are [VerifyInclusion] and
// [VerifyConsistency].
//
// It stores nothing, reads no files and holds no keys: a signature comes from a function that
// the caller brings.
package tlog
