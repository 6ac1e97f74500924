package domain

import (
	"encoding/binary"

	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/keystore"
)

// errVersionSeal is why a row of an earlier version is refused.
const errVersionSeal = damage("does not open under the next version of the domain key")

// versionName returns the name of the row that holds this version of the domain key.
func versionName(version uint32) keystore.Name {
	return keystore.MakeName(keystore.SpaceDomainKey, string(binary.BigEndian.AppendUint32(nil, version)))
}

// versionPlace is what the row of the version before newer is bound to, beside its name.
func versionPlace(appliance [16]byte, newer uint32) seal.Place {
	return seal.Place{Appliance: appliance, Number: newer}
}

// sealVersion returns the row of the version before newer: a record of internal/seal under a key
// derived from the newer key.
func sealVersion(newerKey, key []byte, appliance [16]byte, newer uint32) ([]byte, error) {
	sealing, err := derived(newerKey, seal.LabelDomainKey, appliance[:])
	if err != nil {
		return nil, err
	}
	defer sealing.Free()
	return seal.SealRecord(nil, sealing.Bytes(), versionPlace(appliance, newer), versionName(newer-1).Append(nil), key)
}

// openVersion returns the key in a row that sealVersion made.
func openVersion(newerKey []byte, appliance [16]byte, newer uint32, row []byte) (*securemem.Buffer, error) {
	if len(row) != seal.RecordOverhead+keySize {
		return nil, errVersionSeal
	}
	sealing, err := derived(newerKey, seal.LabelDomainKey, appliance[:])
	if err != nil {
		return nil, err
	}
	defer sealing.Free()
	key, err := securemem.New(keySize)
	if err != nil {
		return nil, err
	}
	if _, err := seal.OpenRecord(key.Bytes()[:0], sealing.Bytes(), versionPlace(appliance, newer), versionName(newer-1).Append(nil), row); err != nil {
		key.Free()
		return nil, errVersionSeal
	}
	return key, nil
}
