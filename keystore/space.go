package keystore

import "fmt"

// Space is the kind of a row, the first byte of its name. All spaces of the appliance stand in this
// file, so that no two packages can collide; a new one is a line in the constants and a line in the
// table. Numbers are frozen: they are on disk.
type Space uint8

// Spaces of the raw store, 1 to 15: read before the domain key is there, or sealed by what keeps
// them.
const (
	SpaceBucket    Space = 1 // keystore/sealed: key and index of one bucket; bucket 2 bytes
	SpaceSlot      Space = 2 // domain: one way to the domain key; slot id
	SpaceSlotTable Space = 3 // domain: what authenticates all slots; no component
	SpaceAnchor    Space = 4 // keystore/sealed: state root of one node; node id 16 bytes
	SpaceNameKey   Space = 5 // keystore/sealed: key that places names in buckets; no component
	SpaceDomainKey Space = 6 // domain: an earlier version of the domain key, under the next one; version 4 bytes
	SpaceRetired   Space = 7 // domain: root of an ended epoch that the token must still destroy; slot id
	SpaceTokenKey  Space = 8 // domain: by which the token finds a key of the appliance that is no root; name
)

// Spaces of sealed rows, 16 to 255.
const (
	SpaceKey          Space = 16 // service/kms: metadata of a key; key id 16 bytes
	SpaceMaterial     Space = 17 // service/kms: one version of a key's secret; key id 16 bytes, material id
	SpaceAlias        Space = 18 // service/kms: which key an alias names; account, alias name without "alias/"
	SpaceOutbox       Space = 19 // access: audit record of a change not yet known to be in the log; event id 16 bytes
	SpaceAccount      Space = 20 // service/iam: a tenant; account
	SpacePrincipal    Space = 21 // service/iam: who may call; account, name
	SpaceClient       Space = 22 // service/iam: whose a client's key is; SHA-256 of the public key
	SpaceAccountKey   Space = 23 // service/kms: keys of an account; account, key id 16 bytes
	SpaceKeyAlias     Space = 24 // service/kms: aliases of a key; key id 16 bytes, alias name without "alias/"
	SpaceClock        Space = 25 // internal/rack: time that was reached; no component
	SpaceSlotDigest   Space = 26 // domain: digest of the slot table; no component
	SpaceNameOwner    Space = 27 // service/iam: account of the principal that has a name; name
	SpaceOutboxCount  Space = 28 // access: how many rows of SpaceOutbox there are; no component
	SpaceKeyTags      Space = 29 // service/kms: all tags of a key; key id 16 bytes
	SpaceTokenKeys    Space = 30 // domain: digests of the rows of SpaceTokenKey; no component
	SpaceKeyCount     Space = 31 // service/kms: how many keys an account has; account
	SpaceKeyMaterials Space = 32 // service/kms: what a key knows of its materials; key id 16 bytes
	SpaceDue          Space = 33 // service/kms: what is to be done with a key at a time; time 8 bytes, kind 1 byte, key id 16 bytes
	SpaceTombstone    Space = 34 // service/kms: what is known of a key that was destroyed; key id 16 bytes
	SpaceKeyUsage     Space = 35 // service/kms: what a key was used for, and when last; key id 16 bytes
	SpaceUsagePos     Space = 36 // service/kms: how much of the audit log all rows of SpaceKeyUsage cover; no component
	SpaceKeyImport    Space = 37 // service/kms: which import token of a key is good; key id 16 bytes
)

// firstSealed is the lowest space of sealed rows.
const firstSealed Space = 16

var spaceNames = [256]string{
	SpaceBucket:       "bucket",
	SpaceSlot:         "slot",
	SpaceSlotTable:    "slot-table",
	SpaceAnchor:       "anchor",
	SpaceNameKey:      "name-key",
	SpaceDomainKey:    "domain-key",
	SpaceRetired:      "retired-root",
	SpaceTokenKey:     "token-key",
	SpaceKey:          "key",
	SpaceMaterial:     "material",
	SpaceAlias:        "alias",
	SpaceOutbox:       "outbox",
	SpaceAccount:      "account",
	SpacePrincipal:    "principal",
	SpaceClient:       "client",
	SpaceAccountKey:   "account-key",
	SpaceKeyAlias:     "key-alias",
	SpaceClock:        "clock",
	SpaceSlotDigest:   "slot-digest",
	SpaceOutboxCount:  "outbox-count",
	SpaceNameOwner:    "name-owner",
	SpaceKeyTags:      "key-tags",
	SpaceTokenKeys:    "token-keys",
	SpaceKeyCount:     "key-count",
	SpaceKeyMaterials: "key-materials",
	SpaceDue:          "due",
	SpaceTombstone:    "tombstone",
	SpaceKeyUsage:     "key-usage",
	SpaceUsagePos:     "usage-position",
	SpaceKeyImport:    "key-import",
}

// Known reports whether s stands in the table.
func (s Space) Known() bool { return spaceNames[s] != "" }

// Sealed reports whether rows of s are reached through keystore/sealed; those of other spaces are
// reached only below it.
func (s Space) Sealed() bool { return s >= firstSealed }

// String returns the space's name in lower case, for diagnostics.
func (s Space) String() string {
	if name := spaceNames[s]; name != "" {
		return name
	}
	return fmt.Sprintf("space %d", uint8(s))
}
