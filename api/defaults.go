package api

import "time"

// Limits that AWS or our formats fix. Nothing else in the tree spells them but
// the tags of requests and responses, which cannot name a constant.
const (
	MaxPlaintext         = 4096    // bytes of an Encrypt (AWS KMS, Encrypt)
	MaxCiphertext        = 6144    // bytes of a CiphertextBlob
	MaxMessage           = 4096    // bytes of the message of a GenerateMac or a Sign
	MaxMac               = 6144    // bytes of the Mac of a VerifyMac, and of the Signature of a Verify
	MaxDataKey           = 1024    // bytes of a data key, and of a GenerateRandom
	MaxEncryptionContext = 8192    // bytes of the canonical encoding
	MaxAliasName         = 256     // characters, "alias/" included
	MaxKeyPolicy         = 32_768  // bytes (AWS KMS quota; more is LimitExceeded)
	MaxKeys              = 100_000 // of one account (AWS KMS quota; more is LimitExceeded)
	MaxAliases           = 50      // of one key (AWS KMS quota; more is LimitExceeded)
	MaxTags              = 50      // of one key (AWS KMS quota; more is LimitExceeded), and of one request (more is Tag)
	MinDeletionWindow    = 7       // days until a key is destroyed that is to be deleted (AWS KMS, ScheduleKeyDeletion)
	MaxDeletionWindow    = 30      // likewise, and the default
	MaxImportFailures    = 8       // tries with one import token that came to nothing
	MaxMaterials         = 512     // of one key: rotated every 90 days, in 120 years
	RotationPeriod       = 365     // days between automatic rotations, if the caller does not say
	MaxOnDemandRotations = 25      // of one key (AWS KMS, RotateKeyOnDemand; more is LimitExceeded)
	ListedKeys           = 100     // a page of ListKeys, if the caller does not say
	ListedAliases        = 50      // a page of ListAliases, if the caller does not say
	ListedRotations      = 100     // a page of ListKeyRotations, if the caller does not say
	ListedTags           = 50      // a page of ListResourceTags, if the caller does not say
)

// MessageKeyLife is how long a message key may be reused: no new message and no
// cached decryption beyond it. The bounds on its messages and bytes are
// internal/seal's, which enforces them.
const MessageKeyLife = 60 * time.Second

// Imported key material (AWS KMS, GetParametersForImport and ImportKeyMaterial).
const (
	ImportParametersLife = 24 * time.Hour       // of an import token
	MaxMaterialLife      = 365 * 24 * time.Hour // of material that expires, from its import
)

// Decryption caches: how many message keys of old messages are kept.
const (
	OpenKeysPerKey     = 4096    // of one key
	OpenKeysPerAccount = 16_384  // of all keys of an account
	CachedKeys         = 8192    // keys whose material is kept in memory
	PackedKeys         = 1 << 20 // keys kept sealed in memory besides those, 140 bytes each
	ExpandedKeys       = 4096    // of them those that are kept ready for MACs and signatures
	ExpandedLattices   = 512     // and those of ML-DSA, some 100 kB each, and ML-KEM
	CachedAliases      = 65_536  // aliases whose targets are kept in memory
)

// MaxPrincipals is how many principals an appliance keeps: all are in memory,
// and a change of one copies the index of all.
const MaxPrincipals = 65_536

// The native protocol's limits, before anything is parsed.
const (
	MaxRequestFrame = 128 << 10 // bytes behind the length
	MaxReplyFrame   = 1 << 20   // bytes behind the length
)

// DefaultListen is where an appliance listens unless it is told otherwise: not on
// the network.
const DefaultListen = "127.0.0.1:7250"

// A connection's limits. See protocol/server for what each guards against.
const (
	HandshakeTimeout  = 10 * time.Second // from accept to the end of the TLS handshake
	FrameTimeout      = 10 * time.Second // from a frame's first byte to its last
	WriteTimeout      = 30 * time.Second // for one write of replies
	IdleTimeout       = 15 * time.Minute // without a whole frame
	MaxConnections    = 16_384           // open at once from the network, handshakes included
	MaxHandshakes     = 1024             // of them those that have not said who they are
	MaxConnsPrincipal = 1024             // open at once by one principal
	MaxConnsOperator  = 64               // open at once on the Unix socket, besides the others
	Window            = 1024             // requests of one connection not answered yet
	WindowBytes       = 4 << 20          // bytes of its replies not written yet
	RequestsPerSecond = 1_000_000        // of one account
)

// RefusalsPerSecond is how many refusals of one principal a second have an audit
// record of their own; the others share one a second with a count.
const RefusalsPerSecond = 10

// Worker pools: how many jobs of a class run and wait.
const (
	StoreWorkers   = 16
	StoreQueue     = 4096
	TokenWorkers   = 4
	TokenQueue     = 1024
	ComputeQueue   = 1024
	GenerateQueue  = 8                // new RSA keys, of which each takes up to some seconds
	WorkerDeadline = 30 * time.Second // for one job, from when it was queued
	LifeDeadline   = 10 * time.Minute // for Unlock and RotateDomainKey, which read the whole store
)
